"""How figures look: one palette, vector text, colours that follow the reader's light or dark mode.

Figures are drawn in stand-in colours, which become CSS variables in the SVG: the page, or the
style inside a stand-alone file, gives them their value.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from integrand.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# stand-in, value on a light ground, value on a dark one
PALETTE = {
    "ink": ("#010203", "#1b1f24", "#e6e8eb"),
    "faint": ("#040506", "#6a737d", "#9aa3ad"),
    "rule": ("#070809", "#d9dde2", "#363c44"),
    "ground": ("#0a0b0c", "#ffffff", "#14171a"),
    "ours": ("#0d0e0f", "#0b6e8f", "#4cc3e6"),
    "peer": ("#101112", "#c2410c", "#ff9d66"),
    "third": ("#131415", "#8a6d00", "#e0bf4f"),
    "fourth": ("#161718", "#6b4fa0", "#b9a3ea"),
    "fifth": ("#191a1b", "#2f7d32", "#7fcf83"),
    "sixth": ("#1c1d1e", "#b0306a", "#f08fb8"),
    "seventh": ("#202122", "#7a5a45", "#c9a58c"),
}
P = ParamSpec("P")
_SANS = "Inter, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"


def colour(name: str) -> str:
    """The stand-in of a palette colour, for drawing."""
    return PALETTE[name][0]


def variables(dark: bool) -> str:
    """CSS declarations of the palette."""
    return " ".join(f"--{name}: {v[2 if dark else 1]};" for name, v in PALETTE.items())


def styled(draw: Callable[P, str]) -> Callable[P, str]:
    """A figure's function, run under the style here whatever the user's own settings are."""

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            import matplotlib as mpl
        except ImportError:
            raise DataError("figures need matplotlib; pip install 'integrand[demo]'") from None
        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
            return draw(*args, **kwargs)

    return run


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure without a window system, and its axes from left to right."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    axes = [made.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.grid(True, axis="y")
        ax.set_axisbelow(True)
    return made, axes


def to_svg(made: Figure, title: str, standalone: bool = False) -> str:
    """The figure as an `<svg>` element with a title for screen readers, or as a file of its own."""
    import matplotlib as mpl

    text = io.StringIO()
    # a fixed salt and no date: the same data give the same file
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        metadata: Any = {"Date": None, "Creator": None}
        made.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # ids that nothing refers to would clash between the figures of a page
    svg = re.sub(r'\s+id="[a-zA-Z.]+_\d+"', "", svg)
    for name, (stand_in, *_) in PALETTE.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"font-family: [^;\"]*", f"font-family: {_SANS}", svg)
    style = ""
    if not standalone:
        # the page decides how wide a figure is
        svg = re.sub(r'\swidth="[^"]*pt"|\sheight="[^"]*pt"', "", svg, count=2)
    else:
        style = (
            f"<style>svg {{ {variables(False)} }} @media (prefers-color-scheme: dark) "
            f"{{ svg {{ {variables(True)} }} }}</style>"
        )
    head, rest = svg.split(">", 1)
    return f'{head} role="img"><title>{title}</title>{style}{rest}'


def label(ax: Axes, x: float, y: float, text: str, name: str, **kwargs: Any) -> None:
    """Text beside a curve, in the curve's colour: no legend to look up."""
    ax.annotate(text, (x, y), color=colour(name), fontsize=9, **kwargs)


_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": colour("ink"),
    "axes.labelcolor": colour("faint"),
    "axes.edgecolor": colour("faint"),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.linewidth": 0.6,
    "grid.color": colour("rule"),
    "text.color": colour("ink"),
    "xtick.color": colour("faint"),
    "ytick.color": colour("faint"),
    "xtick.labelcolor": colour("faint"),
    "ytick.labelcolor": colour("faint"),
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "mathtext.default": "regular",
}
