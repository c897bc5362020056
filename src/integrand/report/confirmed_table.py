"""The table of a confirmation: what a search found beside what is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from integrand.report.tables import Cell, Table

_KINDS = {"better": "good", "worse": "bad"}


def confirmed(winners: Sequence[Mapping[str, Any]]) -> Table:
    """A line per winner and size, a column per reference: the difference in nats per token (below 0
    the winner is better), its 95 % interval, and the verdict on it."""
    references = list(dict.fromkeys(a["reference"] for row in winners for a in row["against"]))
    rows, breaks = [], set()
    for winner in winners:
        breaks.add(len(rows))
        sizes = dict.fromkeys(a["size"] for a in winner["against"])
        for i, size in enumerate(sizes):
            here = {a["reference"]: a for a in winner["against"] if a["size"] == size}
            rows.append([
                Cell("" if i else winner["name"]), Cell("" if i else winner["verdict"]), Cell(size),
                *(_against(here.get(reference)) for reference in references),
                Cell(str(min(a["seeds"] for a in here.values())), "n"),
            ])  # fmt: skip
    head = ["winner", "verdict", "size", *(f"against {r}" for r in references), "seeds"]
    return Table(head, rows, frozenset(breaks))


def _against(row: Mapping[str, Any] | None) -> Cell:
    if row is None or row["difference"] is None:
        return Cell("–", "aside")
    interval = f" [{row['ci'][0]:+.3f}, {row['ci'][1]:+.3f}]" if row["ci"] else ""
    word = row["verdict"]
    return Cell(f"{row['difference']:+.3f}{interval} {word}", _KINDS.get(word, "aside"))
