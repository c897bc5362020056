"""The table of speeds by case: shape, type, direction, with results preallocated or allocated."""

from __future__ import annotations

from collections.abc import Sequence

from integrand.report.tables import SHORT, Cell, Row, Table, baseline_of, number, ratio_cell

_TITLES = {
    "compiled": "÷ torch.compile",
    "transformers_compiled": "÷ transformers, compiled",
    "transformers": "÷ transformers",
    "silu": "÷ F.silu",
    "copy": "÷ copy",
}


def speed_cases(rows: Sequence[Row]) -> Table:
    """Ours alone, a line per case; below 1 is faster than what the column names."""
    ours = [row for row in rows if baseline_of(row) is None]
    ours.sort(key=lambda r: (not r["allocated"], r["shape"], r["dtype"]))
    columns = [key for key in _TITLES if any(f"ratio_{key}" in row for row in ours)]
    head = ["call", "shape", "dtype", "direction", "ms", "GB/s", *(_TITLES[k] for k in columns)]
    body = [
        [
            Cell("as a user's" if row["allocated"] else "kernel alone"),
            Cell(" × ".join(map(str, row["shape"]))),
            Cell(SHORT.get(row["dtype"], row["dtype"])),
            Cell(row["direction"]),
            Cell(number(1e3 * row["median_s"]), "n"),
            Cell(number(row["gb_per_s"]), "n"),
            *(ratio_cell(row, key) for key in columns),
        ]
        for row in ours
    ]
    return Table(head, body)
