"""The figures of a search: its winners' gradients and activations, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from integrand.report.ink import colour, figure, styled, to_svg
from integrand.report.study_figures import SHADES
from integrand.search.profile import profile
from integrand.spec import from_toml, row

Data = Mapping[str, Any]
DRAWN = 5  # more lines than that cannot be told apart
_BESIDE = "xielu"


def keys(winners: Sequence[Data]) -> str:
    """The winners by colour, as HTML."""
    found = (
        f'<span class="key" style="background:var(--{shade})"></span>{escape(w["name"])}'
        for shade, w in zip(SHADES, winners, strict=False)
    )
    return f"<p>{' '.join(found)} · dashed: xIELU</p>"


@styled
def curves(winners: Sequence[Data]) -> str:
    """g and f of some winners at their initial values."""
    made, (left, right) = figure(7.6, 3.4, columns=2)
    x = np.linspace(-4, 4, 321)
    drawn = [(row(_BESIDE).spec, "faint", "--")]
    drawn += [(from_toml(w["spec"]), s, "-") for s, w in zip(SHADES, winners, strict=False)]
    for spec, shade, style in drawn:
        p = profile(spec)
        for ax, y in ((left, p.slope(x)), (right, p.value(x))):
            ax.plot(x, y, style, color=colour(shade), linewidth=1.4)
    left.set_title("gradient g")
    right.set_title("activation f")
    for ax in (left, right):
        ax.set_ylim(-2, 4)
        ax.axvline(0, color=colour("rule"), linewidth=0.8, zorder=0)
    return to_svg(made, "Gradients and activations of the winners")


@styled
def front(summary: Data) -> str:
    """The score against every other objective; the front among the best of the last rung."""
    others = [name for name in summary["objectives"] if name != "score"]
    made, axes = figure(7.6, 2.9, columns=len(others))
    for ax, name in zip(axes, others, strict=True):
        passed = [
            (r["numbers"][name], _score(r)) for r in summary["ranking"] if name in r["numbers"]
        ]
        best = [(r["objectives"][name], r["objectives"]["score"]) for r in summary["front"]]
        for points, shade, size in ((passed, "faint", 10), (best, "ours", 26)):
            if points:
                ax.scatter(*zip(*points, strict=True), s=size, color=colour(shade))
        ax.set_xlabel(name.replace("_", " "))
    axes[0].set_title("score of the last rung")
    return to_svg(made, "The Pareto front")


def _score(found: Data) -> float:
    return list(found["scores"].values())[-1]
