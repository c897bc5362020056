"""The table of a search: its best and where known activations stand among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from integrand.report.tables import Cell, Table

_BEST = 5


def best_and_references(summary: Mapping[str, Any]) -> Table:
    """The first of the last rung, then the references, each with its place at every rung."""
    rungs = [rung["name"] for rung in summary["rungs"]]
    best = [row for row in summary["ranking"] if row["operation"] != "reference"][:_BEST]
    known = [row for row in summary["references"] if rungs[-1] in row["scores"]]
    rows = sorted([*best, *known], key=lambda row: row["scores"][rungs[-1]])
    places = {row["key"]: place for place, row in enumerate(summary["ranking"], 1)}
    lines = []
    for row in rows:
        of = row.get("places", {})
        at_last = of[rungs[-1]][0] if of else places[row["key"]]
        lines.append(
            [
                Cell(str(at_last), "n"),
                Cell(row["name"]),
                Cell(
                    f"`f′ = {row['gradient']}`" if "gradient" in row else f"`f = {row['function']}`"
                ),
                Cell(f"{row['scores'][rungs[-1]]:.3f}", "n"),
                *(Cell(str(of[name][0]) if of else "–", "n") for name in rungs[:-1]),
            ]
        )
    scored = [f"{rung['name']}, of {rung['scored']:,}" for rung in summary["rungs"]]
    head = [
        f"place at {scored[-1]}",
        "name",
        "declared",
        "loss",
        *(f"at {s}" for s in scored[:-1]),
    ]
    return Table(head, lines)
