"""The figures of a sparsity measurement."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from integrand.report.ink import colour, figure, styled, to_svg
from integrand.report.study_figures import SHADES

Data = Mapping[str, Any]
_METHODS = (("cett", "one CETT"), ("top_k", "smallest of each token"), ("global", "one threshold"))


def shades(summary: Data) -> dict[str, tuple[str, str]]:
    """A palette colour and a line style for each model."""
    names = [m["name"] for m in summary["models"]]
    styles = ("-", "--", ":")
    return {
        name: (SHADES[i % len(SHADES)], styles[i // len(SHADES) % 3])
        for i, name in enumerate(names)
    }


def keys(summary: Data) -> str:
    """The models by colour, as HTML."""
    found = (
        f'<span class="key" style="background:var(--{shade})"></span>{escape(name)}'
        + ("" if style == "-" else " (dashed)")
        for name, (shade, style) in shades(summary).items()
    )
    return f"<p>{' '.join(found)}</p>"


@styled
def price(summary: Data, standalone: bool = False) -> str:
    """Rise of perplexity against sparsity, one line a model."""
    made, (ax,) = figure(7.6, 3.4)
    for model in summary["models"]:
        shade, style = shades(summary)[model["name"]]
        drawn = sorted(
            (100 * p["sparsity"], 100 * p["rise"])
            for p in model["points"]
            if p["by"] == "cett" and 0 < p["rise"] < 1
        )
        if drawn:
            ax.plot(*zip(*drawn, strict=True), style, marker="o", markersize=3, linewidth=1.2,
                    color=colour(shade))  # fmt: skip
            if standalone:
                ax.annotate(model["name"], drawn[-1], xytext=(3, 0), textcoords="offset points",
                            color=colour(shade), fontsize=8)  # fmt: skip
    ax.axhline(1, color=colour("ink"), linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set_xlabel("neurons left out, %")
    ax.set_title("rise of perplexity, %")
    return to_svg(made, "Perplexity against sparsity", standalone)


@styled
def methods(summary: Data) -> str:
    """The same by how neurons are chosen, one panel a method."""
    made, axes = figure(7.6, 2.7, columns=len(_METHODS))
    for ax, (by, name) in zip(axes, _METHODS, strict=True):
        for model in summary["models"]:
            shade, style = shades(summary)[model["name"]]
            drawn = sorted(
                (100 * p["sparsity"], 100 * p["rise"])
                for p in model["points"]
                if p["by"] == by and 0 < p["rise"] < 10
            )
            if drawn:
                ax.plot(*zip(*drawn, strict=True), style, marker="o", markersize=2, linewidth=1,
                        color=colour(shade))  # fmt: skip
        ax.set_yscale("log")
        ax.set_title(name)
        ax.set_xlabel("left out, %")
    return to_svg(made, "Perplexity against sparsity by method")


@styled
def by_layer(summary: Data) -> str:
    """Sparsity at the operating point by depth."""
    made, (ax,) = figure(7.6, 2.8)
    for model in summary["models"]:
        shade, style = shades(summary)[model["name"]]
        # the last threshold of a layer is that of the operating point
        drawn = [100 * list(layer["sparsity"].values())[-1] for layer in model["layers"]]
        ax.plot(range(1, len(drawn) + 1), drawn, style, marker="o", markersize=3, linewidth=1.2,
                color=colour(shade))  # fmt: skip
    ax.set_xlabel("layer")
    ax.set_title("neurons within the threshold, %")
    return to_svg(made, "Sparsity by layer")
