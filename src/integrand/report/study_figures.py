"""The figures of a study: differences, loss against compute, rates, held-out loss, depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from integrand.report.formula import letters
from integrand.report.ink import colour, figure, styled, to_svg

Data = Mapping[str, Any]
_AT = {"tokens": "at equal tokens", "wall_clock": "at equal time"}
# more panels beside each other would be too narrow to read
_PANELS = 4
SHADES = ("ours", "peer", "third", "fourth", "fifth", "sixth", "seventh")


def variants(summary: Data) -> list[str]:
    """The baseline and what is compared with it: no ablations of one of them."""
    baseline = summary["baseline"]
    against = {r["b"] for r in summary["comparisons"] if r["a"] == baseline}
    return [r["variant"] for r in summary["ladder"]["fits"] if r["variant"] in {baseline, *against}]


def shades(summary: Data) -> dict[str, str]:
    """A palette colour for each of them: the baseline in the second, xIELU in the first."""
    others = [n for n in variants(summary) if n != summary["baseline"]]
    others.sort(key=lambda name: "xielu" not in name.lower())
    free = [s for s in SHADES if s != "peer"] + ["faint"] * len(others)
    return {summary["baseline"]: "peer", **dict(zip(others, free, strict=False))}


@styled
def overview(summary: Data, standalone: bool = False) -> str:
    """Differences at equal tokens on the left, loss against compute on the right."""
    made, (left, right) = figure(7.6, _height(_against_baseline(summary), "tokens"), columns=2)
    _forest(left, _against_baseline(summary), "tokens")
    _scaling(right, summary)
    return to_svg(made, f"{summary['name']}: differences and loss against compute", standalone)


@styled
def differences(summary: Data) -> str:
    """Paired differences with their intervals, at equal tokens and at equal time."""
    made, axes = figure(7.6, _height(summary, "tokens"), columns=2)
    for ax, at in zip(axes, _AT, strict=True):
        _forest(ax, summary, at)
    return to_svg(made, "Paired differences of the held-out loss")


def _against_baseline(summary: Data) -> Data:
    rows = [r for r in summary["comparisons"] if r["a"] == summary["baseline"]]
    return {**summary, "comparisons": rows}


def _height(summary: Data, at: str) -> float:
    return max(2.6, 1.2 + 0.22 * len([r for r in summary["comparisons"] if r["at"] == at]))


def _forest(ax: Any, summary: Data, at: str) -> None:
    rows = [r for r in summary["comparisons"] if r["at"] == at and r["difference"] is not None]
    shade = shades(summary)
    for place, row in enumerate(rows):
        ink = colour(shade.get(row["b"], "ink"))
        seen = row.get("min_detectable_effect") or 0.0
        ax.barh(place, 2 * seen, left=-seen, height=0.8, color=colour("rule"), alpha=0.7)
        if row["ci"]:
            ax.plot(row["ci"], [place, place], color=ink, linewidth=2)
        ax.plot([row["difference"]], [place], "o", color=ink, markersize=5)
    ax.axvline(0, color=colour("ink"), linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"{r['rung']}  {r['b']} − {r['a']}" for r in rows])
    ax.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.set_xlabel("nats per token, below 0 is better")
    ax.set_title(f"difference {_AT[at]}" + ("" if rows else ": not measured"))


@styled
def loss_against_compute(summary: Data) -> str:
    """Mean losses over compute with their fits."""
    made, (ax,) = figure(7.6, 3.2)
    _scaling(ax, summary)
    return to_svg(made, "Held-out loss against compute")


def _scaling(ax: Any, summary: Data) -> None:
    shade = shades(summary)
    shown = [row for row in summary["ladder"]["fits"] if row["variant"] in shade]
    for place, row in enumerate(shown):
        ink = colour(shade[row["variant"]])
        means = [sum(v) / len(v) for v in row["losses"]]
        ax.plot(row["compute"], means, "o", color=ink, markersize=4)
        if row["fit"]:
            ax.plot(*zip(*row["line"], strict=True), color=ink, linewidth=1.2)
        ax.annotate(row["variant"], (0.97, 0.93 - 0.09 * place), xycoords="axes fraction",
                    ha="right", color=ink)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("training FLOPs")
    ax.set_title("held-out loss, nats per token")


@styled
def rate_sweeps(summary: Data) -> str:
    """Losses of the tuning runs by rate, one panel a rung; a ring around the rate chosen."""
    rungs = list(dict.fromkeys(r["rung"] for r in summary["tuning"]))[-_PANELS:]
    made, axes = figure(7.6, 2.7, columns=len(rungs))
    shade = shades(summary)
    for ax, rung in zip(axes, rungs, strict=True):
        for row in (r for r in summary["tuning"] if r["rung"] == rung and r["variant"] in shade):
            ink = colour(shade[row["variant"]])
            whole = [p for p in row["points"] if None not in p["losses"]]
            means = {p["lr"]: sum(p["losses"]) / len(p["losses"]) for p in whole}
            ax.plot(list(means), list(means.values()), "o-", color=ink, markersize=3, linewidth=1.2)
            if row["best"] is not None:
                ax.plot([row["best"]], [means[row["best"]]], "o", markersize=9, color=ink,
                        fillstyle="none")  # fmt: skip
        _log_ticks(ax)
        ax.set_title(rung)
        ax.set_xlabel("learning rate")
    return to_svg(made, "Learning-rate sweeps")


def _log_ticks(ax: Any) -> None:
    from matplotlib.ticker import NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())


@styled
def held_out(summary: Data) -> str:
    """Held-out loss over training, means over seeds, one panel a rung; the start is left out."""
    rungs = list(dict.fromkeys(r["rung"] for r in summary["curves"]))[-_PANELS:]
    made, axes = figure(7.6, 2.9, columns=len(rungs))
    shade = shades(summary)
    for ax, rung in zip(axes, rungs, strict=True):
        for row in (r for r in summary["curves"] if r["rung"] == rung and r["variant"] in shade):
            drawn = [p for p in row["held_out"] if p[0] > 0]
            if drawn:
                ink = colour(shade[row["variant"]])
                ax.plot(*zip(*drawn, strict=True), color=ink, linewidth=1.2)
        ax.set_title(rung)
        ax.set_xlabel("step")
    return to_svg(made, "Held-out loss over training")


@styled
def by_depth(rows: Sequence[Data]) -> str:
    """One measure a panel over relative depth, one line a rung, larger rungs darker."""
    measures = list(dict.fromkeys(r["measure"] for r in rows))
    made, axes = figure(7.6, 2.8, columns=max(2, len(measures)))
    for ax in axes[len(measures) :]:
        ax.set_visible(False)
    for ax, measure in zip(axes, measures, strict=False):
        own = [r for r in rows if r["measure"] == measure and r["change"] is not None]
        for place, row in enumerate(own):
            layers = row["by_layer"]
            depth = [i / (len(layers) - 1) for i in range(len(layers))]
            alpha = 0.35 + 0.65 * (place + 1) / len(own)
            ax.plot(depth, layers, "o-", color=colour("ours"), alpha=alpha, markersize=3)
        ax.set_title(letters(measure))
        ax.set_xlabel("depth, first to last layer")
        ax.margins(y=0.12)
    return to_svg(made, "Learned activations by depth")
