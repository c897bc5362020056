"""A checkpoint's activations by depth: figures, table and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from integrand.models.extremes import RULES
from integrand.models.inspection import Inspection
from integrand.models.sites import telling
from integrand.report.curves import curves
from integrand.report.formula import letters
from integrand.report.ink import colour, figure, label, styled, to_svg
from integrand.report.page import render
from integrand.report.sections import figure as framed
from integrand.report.tables import SHORT, Cell, Table, number

LEAD = (
    "What the layers of this checkpoint learned as their activation: read from its activation "
    "parameters alone."
)
_BRIEF = {"far": "far from the median layer", "overflow": "leaves fp16 early", "coarse": "frozen"}


@styled
def values_by_depth(found: Inspection) -> str:
    """Parameter values over depth, one panel each; a bar where a layer holds several."""
    names = _shown(found)
    made, axes = figure(7.6, 2.9, columns=max(2, len(names)))
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, names, strict=False):
        tensors = [layer.values[name] for layer in found.layers]
        middle = [t.median().item() for t in tensors]
        ends = [(t.min().item(), t.max().item()) for t in tensors]
        depth = range(len(middle))
        ax.vlines(depth, *zip(*ends, strict=True), color=colour("ours"), alpha=0.4)
        ax.plot(depth, middle, color=colour("ours"), marker="o", markersize=3, linewidth=1.0)
        for at in _flagged(found, name):
            ax.plot([at], [middle[at]], color=colour("peer"), marker="o", markersize=5)
            label(ax, at, middle[at], f"  layer {at}: {middle[at]:.4g}", "peer", va="center")
        if min(e[0] for e in ends) > 0 and max(e[1] for e in ends) > 20 * min(middle):
            ax.set_yscale("log")
        ax.set_title(f"{letters(name)} by layer (0 is the first)")
        ax.set_xlabel("layer")
        ax.margins(x=0.04, y=0.12)
    return to_svg(made, "Activation parameters by depth")


@styled
def functions_by_depth(found: Inspection) -> str:
    """f and f' of every layer, deeper layers lighter; extreme layers in a colour of their own."""
    made, axes = figure(7.6, 3.1, columns=2)
    extreme = {at for name in found.activation.spec.params for at in _flagged(found, name)}
    drawn = [curves(found.activation, values=_middle(la.values)) for la in found.layers]
    usual = [d for at, d in enumerate(drawn) if at not in extreme] or drawn
    for ax, key, title in zip(axes, ("f", "df"), ("activation f", "gradient f′"), strict=True):
        low, high = (pick(pick(d[key]) for d in usual) for pick in (min, max))
        ax.axhline(0, color=colour("faint"), linewidth=0.8)
        ax.axvline(0, color=colour("faint"), linewidth=0.8)
        for at, d in enumerate(drawn):
            light = 1 - 0.75 * at / max(1, len(drawn) - 1)
            shade, alpha = ("peer", 1.0) if at in extreme else ("ours", light)
            ax.plot(d["x"], d[key], color=colour(shade), alpha=alpha, linewidth=1.1)
        room = 0.08 * (high - low) or 1.0
        # one extreme layer must not flatten all others
        ax.set_ylim(low - room, high + room)
        ax.set_xlim(drawn[0]["x"][0], drawn[0]["x"][-1])
        ax.set_title(title)
        ax.set_xlabel("x")
    return to_svg(made, "Activations by depth")


def table(found: Inspection) -> Table:
    """One row per layer: stored numbers and values, reach in fp16, and what is extreme."""
    names, raw = _shown(found), list(found.layers[0].raw)
    head = ["layer", *(f"raw {letters(n)}" for n in raw), *(letters(n) for n in names),
            "fp16 inf from |x|", "extreme"]  # fmt: skip
    rows = []
    for depth, layer in enumerate(found.layers):
        flagged = ", ".join(
            f"{letters(name)} {_BRIEF[rule]}" if name else f"f {_BRIEF[rule]}"
            for name, rule in layer.flags
        )
        rows.append(
            [
                Cell(str(depth), "n"),
                *(Cell(_span(layer.raw[n]), "n aside") for n in raw),
                *(Cell(_span(layer.values[n]), "n") for n in names),
                Cell(number(layer.fp16_reach, 4).replace("inf", "∞"), "n"),
                Cell(flagged, "bad" if flagged else ""),
            ]
        )
    return Table(head, rows)


def summary(found: Inspection) -> str:
    """One sentence: what was found, and how much was read for it."""
    dtype = str(next(iter(found.layers[0].raw.values())).dtype).removeprefix("torch.")
    count = len(found.layers)
    read = (
        f"; {found.read_bytes:,} of {found.total_bytes:,} bytes read" if found.total_bytes else ""
    )
    return (
        f"{found.source}: {count} {'layer' if count == 1 else 'layers'} of "
        f"{found.activation.name}, format {found.format}, {SHORT.get(dtype, dtype)}{read}"
    )


def explanations(found: Inspection) -> list[str]:
    """What the marks in the table mean, where they occur, and what holds for all layers."""
    occurring = dict.fromkeys(rule for layer in found.layers for _, rule in layer.flags)
    return [f"{_BRIEF[rule]}: {RULES[rule]}." for rule in occurring] + list(found.notes)


def write_page(found: Inspection, path: Path) -> Path:
    """One self-contained HTML file of an inspection.

    Raises:
        DataError: jinja2 or matplotlib is missing.
    """
    extreme = [depth for depth, layer in enumerate(found.layers) if layer.flags]
    facts = [
        (str(len(found.layers)), f"layers of {found.activation.name}, format {found.format}"),
        (str(len(extreme)), "of them extreme by the rules below"),
    ]
    if found.total_bytes:
        facts.append((f"{found.read_bytes:,}", f"bytes read, of {found.total_bytes:,}"))
    unusual = " Layers in the second colour stand far from the others and may leave the frame."
    function = f"f(x) = {found.activation.formula}"
    shown = [
        (
            "depth",
            "By depth",
            framed(values_by_depth(found), "Values, not the stored raw numbers.")
            + framed(
                functions_by_depth(found),
                f"{function}; deeper layers lighter."
                + (unusual if any(r == "far" for la in found.layers for _, r in la.flags) else ""),
            ),
        ),
        (
            "layers",
            "Layers",
            table(found).html()
            + "".join(f'<p class="note">{escape(text)}</p>' for text in explanations(found)),
        ),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Activations of {found.source}"
    path.write_text(render(title, LEAD, facts, shown), encoding="utf-8")
    return path


def _shown(found: Inspection) -> list[str]:
    """Parameters that training changes, or that differ between layers."""
    first = found.layers[0]
    return [
        name
        for name in first.values
        if name in first.raw
        or any(not torch.equal(la.values[name], first.values[name]) for la in found.layers)
    ]


def _flagged(found: Inspection, name: str) -> list[int]:
    return [at for at, layer in enumerate(found.layers) if (name, "far") in layer.flags]


def _middle(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return telling(values)[0]


def _span(tensor: torch.Tensor) -> str:
    ends: Sequence[Any] = (tensor.double().min().item(), tensor.double().max().item())
    return " … ".join(number(v, 4) for v in dict.fromkeys(ends))
