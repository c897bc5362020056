"""The figures: plain data in, SVG text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from integrand.report.formula import letters
from integrand.report.ink import colour, figure, label, styled, to_svg

Data = Mapping[str, Any]

SHADES = ("ours", "peer", "third", "fourth")
# above this an error is drawn at the frame: what is wrong by a factor is wrong
_MOST_ULPS = 1e5
_TICKS = (-1e30, -1e10, -1e-6, -1e-20, 0.0, 1e-20, 1e-6, 1e10, 1e30)


@styled
def gradient_and_function(derived: Data, standalone: bool = False) -> str:
    """The declared gradient on the left, its integral on the right."""
    made, (left, right) = figure(7.6, 2.9, columns=2)
    x = derived["curves"]["x"]
    declared, found = "what you write", "what integrand writes"
    if derived["declares"] == "function":
        declared, found = found, declared
    for ax, key, title, shade in (
        (left, "df", f"gradient f′   ({declared})", "peer"),
        (right, "f", f"activation f   ({found})", "ours"),
    ):
        ax.axhline(0, color=colour("faint"), linewidth=0.8)
        ax.axvline(0, color=colour("faint"), linewidth=0.8)
        ax.plot(x, derived["curves"][key], color=colour(shade))
        ax.set_title(title)
        ax.set_xlim(x[0], x[-1])
        ax.set_xlabel("x")
    return to_svg(made, f"{derived['name']}: gradient and function", standalone)


@styled
def error_by_pattern(sweeps: Sequence[Data]) -> str:
    """Worst error of f and of f' in each group of neighbouring inputs, all inputs in order."""
    made, axes = figure(7.6, 3.0, columns=2)
    for ax, key, title in zip(axes, ("f", "df"), ("f", "f′"), strict=True):
        for swept, shade in zip(sweeps, SHADES, strict=False):
            worst = [min(max(v, 1e-2), _MOST_ULPS) for v in swept[key]["worst"]]
            places = range(len(worst))
            ax.fill_between(
                places, 1e-2, worst, step="mid", color=colour(shade), alpha=0.25, linewidth=0
            )
            ax.step(places, worst, where="mid", color=colour(shade), linewidth=1.0)
        ax.axhline(1, color=colour("ink"), linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.set_ylim(1e-2, _MOST_ULPS * 3)
        ax.set_xlim(0, len(sweeps[0]["edges"]) - 2)
        ax.set_title(f"{title}: worst error, ulps")
        places, names = _ticks(sweeps[0]["edges"])
        ax.set_xticks(places, names, fontsize=7.5)
        ax.set_xlabel("x, every finite bf16 number in order")
        # just above 0 nothing is drawn: both are far below 1 ulp there
        label(ax, places[len(places) // 2] + 8, 1.3, "1 ulp", "ink")
    return to_svg(made, "Error in ulps over all bf16 inputs")


def _ticks(edges: Sequence[float]) -> tuple[list[int], list[str]]:
    places, names = [], []
    for value in _TICKS:
        if edges[0] < value < edges[-1]:
            place = sum(e <= value for e in edges) - 1
            # labels closer than this would touch
            if not places or place - places[-1] > len(edges) / 16:
                places.append(place)
                names.append(_power(value))
    return places, names


def _power(value: float) -> str:
    """-1e-6 as text: a minus sign, 10, and the exponent raised."""
    if value in (0.0, 1.0, -1.0):
        return f"{value:g}".replace("-", "−")
    sign = "−" if value < 0 else ""
    exponent = f"{abs(value):.0e}".split("e")[1]
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{sign}10{raised}"


@styled
def loss_curves(study: Data) -> str:
    """Held-out loss by step as points and lines, training loss as a faint band behind."""
    made, (left, right) = figure(7.6, 3.1, columns=2)
    floor = []
    others = iter(SHADES[1:])
    for variant in study["variants"]:
        shade = SHADES[0] if variant.get("activation") == "xielu" else next(others, "faint")
        curve = study["curves"][variant["name"]]
        steps, losses = zip(*curve["held_out"], strict=True)
        train_steps, train_losses = zip(*smoothed(curve["train"]), strict=True)
        left.plot(train_steps, train_losses, color=colour(shade), linewidth=1.2)
        right.plot(steps, losses, color=colour(shade), marker="o", markersize=3)
        floor.append((losses[-1], steps[-1], variant["name"], shade))
    left.set_title("training loss, nats per token (running mean)")
    right.set_title("held-out loss, nats per token")
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.margins(x=0.02)
    low = min(f[0] for f in floor)
    lines = sorted(floor, reverse=True)
    for place, (loss, _, name, shade) in enumerate(lines):
        right.annotate(
            f"{name}  {loss:.3f}",
            (0.98, 0.93 - 0.09 * place),
            xycoords="axes fraction",
            ha="right",
            color=colour(shade),
            fontsize=9,
        )
    right.set_ylim(bottom=low - 0.15)
    return to_svg(made, "Loss curves")


def smoothed(rows: Sequence[Sequence[float]], groups: int = 80) -> list[tuple[float, float]]:
    """Means of neighbouring rows (step, loss): at most `groups` points."""
    size = max(1, -(-len(rows) // groups))
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [(sum(r[0] for r in p) / len(p), sum(r[1] for r in p) / len(p)) for p in parts]


@styled
def parameters_by_depth(values: Sequence[Data], names: Sequence[str]) -> str:
    """Learned values over training, one line per layer, deeper layers lighter."""
    made, axes = figure(7.6, 2.9, columns=max(2, len(names)))
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, names, strict=False):
        steps = [row["step"] for row in values]
        layers = len(values[0]["values"][name])
        for layer in range(layers):
            heights = [mean(row["values"][name][layer]) for row in values]
            opacity = 1 - 0.7 * layer / max(1, layers - 1)
            ax.plot(steps, heights, color=colour("ours"), alpha=opacity)
            ax.annotate(
                f" {layer}",
                (steps[-1], heights[-1]),
                color=colour("faint"),
                fontsize=8,
                va="center",
                annotation_clip=False,
            )
        ax.set_title(f"{letters(name)} by layer (0 is the first)")
        ax.set_xlabel("step")
    return to_svg(made, "Learned parameters by depth")


def mean(value: float | Sequence[float]) -> float:
    return sum(value) / len(value) if isinstance(value, Sequence) else value
