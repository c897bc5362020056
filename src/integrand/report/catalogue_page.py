"""The catalogue as a Markdown page, generated from the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from integrand.report.tables import SHORT
from integrand.spec import Param, Row, Spec, gates, names, row
from integrand.train.files import read_json

SPEEDS = Path("results/bench/catalogue/summary.json")
# beyond this a row says why
_SLOW = 1.5

_FAMILIES = {
    "xielu": "Designed by their gradient",
    "integrals": "Integrals of common gradients",
    "expanded": "Expanded gating ranges",
    "self_gated": "Self-gated",
    "rectifiers": "Piecewise linear and polynomial",
    "smooth_rectifiers": "Smooth rectifiers",
    "exponential": "Exponential linear units",
    "bounded": "Bounded, squashing and localised",
    "periodic": "Periodic",
}

_INTRO = """# Catalogue

Every activation here is one entry of a TOML file in `src/integrand/catalogue/`: a gradient
(`f' =`) or a function (`f =`), its parameters, its source, and how the formula was verified:

- *authors' code*: read in the authors' own repository
- *independent implementations*: several implementations or readings of the paper agree
- *derived and checked*: derived from the description in words, or from calculus, and checked
  numerically
- *textbook*: no doubt about the formula

The tests compare every entry with its published formula, written out a second time by hand, in
multi-precision. `sigmoid`, `softplus`, `ndtr` (the standard normal cdf), `softsign` and the other
functions are those of the grammar. This page is generated: `integrand list --markdown`.
"""
_SPEED = """Speed is the forward pass as a user calls it, allocation included, relative to
`F.silu` on the same tensor of 4096 × 8192, on {processor} with {threads} threads;
`integrand bench --all --json results/bench/catalogue/summary.json` measures it. Below 1 is faster.
"""


def catalogue_markdown(speeds: Path = SPEEDS) -> str:
    """The page `docs/catalogue.md`: name, formula, parameters, source, status and note per row,
    and its speed, where `speeds` holds a sweep of the catalogue."""
    data: dict[str, Any] = read_json(speeds) if speeds.exists() else {"rows": []}
    timed: dict[str, list[Mapping[str, Any]]] = {}
    for r in data["rows"]:
        if r["name"] == r["activation"]:
            timed.setdefault(r["activation"], []).append(r)
    rows = sorted((row(name) for name in names()), key=_order)
    parts = [_INTRO]
    if timed:
        parts.append(_SPEED.format(**data["environment"]))
    parts.append(f"{len(rows)} activations, {len(gates())} gated forms.\n")
    for family, members in groupby(rows, key=lambda r: r.family):
        parts.append(f"## {_FAMILIES.get(family, family)}\n")
        parts += [_entry(r, timed.get(r.spec.name, ())) for r in members]
    return "\n".join([*parts, _gates()])


def _order(entry: Row) -> tuple[int, str, str]:
    known = list(_FAMILIES)
    place = known.index(entry.family) if entry.family in known else len(known)
    return place, entry.family, entry.spec.name


def _entry(entry: Row, timed: Sequence[Mapping[str, Any]]) -> str:
    spec = entry.spec
    lines = [f"### `{spec.name}` {entry.title}\n", "```text", _formula(spec), "```\n"]
    lines += [f"- {_parameter(name, p)}" for name, p in spec.params.items()]
    if entry.aliases:
        lines.append("- also called " + ", ".join(f"`{a}`" for a in entry.aliases))
    lines.append(f"- {_source(spec.source)}; {entry.status}")
    if entry.note:
        lines.append(f"- {entry.note}")
    if timed:
        lines.append(f"- {_speed(timed)}")
    return "\n".join(lines) + "\n"


def _speed(timed: Sequence[Mapping[str, Any]]) -> str:
    ratios = ", ".join(f"{r['ratio_silu']:.2f} ({SHORT[r['dtype']]})" for r in timed)
    slow = any(r["ratio_silu"] > _SLOW for r in timed)
    why = f"; slow because of: {', '.join(timed[0]['causes'])}" if slow else ""
    return f"speed: {ratios} of the time of `F.silu`{why}"


def _formula(spec: Spec) -> str:
    left = "f'" if spec.kind == "gradient" else "f"
    pieces = (spec.gradient or spec.function or "").replace(" else ", "\n     else ")
    point, value = spec.anchor
    anchor = "" if spec.kind == "function" or spec.anchor == (0, 0) else f"\nf({point}) = {value}"
    return f"{left} = {pieces}{anchor}"


def _parameter(name: str, param: Param) -> str:
    bounds = [f"> {param.above}"] if param.above is not None else []
    bounds += [f"< {param.below}"] if param.below is not None else []
    kind = "trainable" if param.trainable else "fixed"
    return f"`{name}` {' and '.join(bounds)}".rstrip() + f", starts at {param.init}, {kind}"


def _source(source: str) -> str:
    if source.startswith("arXiv:"):
        return f"[{source}](https://arxiv.org/abs/{source.removeprefix('arXiv:')})"
    return f"<{source}>" if source.startswith("https://") else source


def _gates() -> str:
    lines = [
        "## Gated forms\n",
        "A gated unit multiplies `gate(x W)` by `up(x V)`. Any row can be the gate; these are the",
        "usual ones.\n",
        "| name | gate | up | source |",
        "|---|---|---|---|",
    ]
    for name, gate in gates().items():
        up = f"`{gate['up']}`" if "up" in gate else ""
        source = _source(gate["source"])
        lines.append(f"| `{name}` {gate['title']} | `{gate['gate']}` | {up} | {source} |")
    return "\n".join(lines) + "\n"
