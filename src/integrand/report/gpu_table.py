"""The table of a GPU's speeds: each case beside a copy of the same bytes."""

from __future__ import annotations

from typing import Any

from integrand.report.tables import SHORT, Cell, Table

# heading and labels of `benchmarks/gpu.py`; the first of the labels that a case has is shown
_COLUMNS = (
    ("integrand", ("triton",)),
    ("torch.compile of the formula", ("formula compiled",)),
    ("torch.compile of our reference", ("reference compiled",)),
    ("public CUDA xIELU", ("XIELU (CUDA)",)),
    ("F.silu", ("F.silu",)),
    ("PyTorch's own", ("formula",)),
)


def gpu(data: dict[str, Any]) -> Table:
    """Percent of the bandwidth of a copy, which is the limit."""
    cases: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in data["speeds"]:
        rows, columns = row["shape"][0], row["shape"][-1]
        if row["direction"] in ("forward", "backward"):
            key = (row["name"], row["dtype"], f"{rows} × {columns}", row["direction"])
            cases.setdefault(key, {})[row["impl"]] = row
    head = ["activation", "dtype", "shape", "direction", "copy, GB/s"]
    head += [f"{title}, %" for title, _ in _COLUMNS]
    body = [
        [Cell(name), Cell(SHORT[dtype]), Cell(shape), Cell(direction)]
        + [Cell(f"{case['copy']['gb_per_s']:,.0f}", "n")]
        + [_percent(case, labels, name) for _, labels in _COLUMNS]
        for (name, dtype, shape, direction), case in cases.items()
    ]
    return Table(head, body)


def _percent(case: dict[str, Any], labels: tuple[str, ...], name: str) -> Cell:
    # for xIELU the formula is eager operations, not a kernel of PyTorch's
    found = [case[k] for k in labels if k in case and not (k == "formula" and name == "xielu")]
    return Cell(f"{found[0]['percent_of_copy']:.0f}", "n") if found else Cell("–", "n")
