"""The picture and the tables of the README: the picture from a derivation, tables from results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from integrand.errors import DataError
from integrand.report import tables
from integrand.report.confirmed_table import confirmed
from integrand.report.gpu_table import gpu
from integrand.report.planted_table import planted
from integrand.report.search_table import best_and_references
from integrand.report.sparsity_page import results as sparsity
from integrand.report.speed_cases import speed_cases
from integrand.report.study_words import results
from integrand.train.files import read_json

_TABLES = {
    "certify": lambda data: _certificates(data["rows"]),
    "bench": lambda data: speed_cases(data["rows"]),
    "gpu": gpu,
    "output_only": lambda data: tables.output_only(data["rows"]),
    "study": lambda data: _study(data),
    "sparsity": sparsity,
    "planted": planted,
    "search": best_and_references,
    "confirmed": lambda data: confirmed(data["rows"]),
}


def _certificates(rows: list[Any]) -> tables.Table:
    every_fp32 = all(row.get("beyond_f") is not None for row in rows)
    return tables.exhaustive(rows) if every_fp32 else tables.certificates(rows)


def _study(data: Any) -> tables.Table:
    """Of a study over seeds and sizes, or of one matched training."""
    return results(data) if "ladder" in data else tables.study(data["variants"])


def picture(act: Any) -> str:
    """A stand-alone SVG of an activation: its gradient on the left, the function on the right.

    Path("docs/xielu.svg").write_text(picture(ig.activation("xielu")))
    """
    from integrand.report.curves import curves
    from integrand.report.figures import gradient_and_function

    data = {"name": act.name, "declares": act.spec.kind, "curves": curves(act)}
    return gradient_and_function(data, standalone=True)


def markdown(path: Path | str) -> str:
    """The Markdown table of a results file (`{"kind": ..., ...}` of one of the kinds above).

    Raises:
        DataError: the file is no such result.
    """
    data: Any = read_json(Path(path))
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in _TABLES:
        raise DataError(f"{path} must be of kind {', '.join(_TABLES)}, got {kind!r}")
    return _TABLES[kind](data).markdown()


def refresh(readme: Path) -> str:
    """The text of a README with the table of each results file between its two markers.

    `<!-- table: results/bench/xielu/summary.json -->` ... `<!-- end -->`
    """

    def filled(match: re.Match[str]) -> str:
        table = markdown(readme.parent / match["path"])
        return f"<!-- table: {match['path']} -->\n{table.strip()}\n<!-- end -->"

    pattern = r"<!-- table: (?P<path>\S+) -->\n.*?<!-- end -->"
    return re.sub(pattern, filled, readme.read_text(encoding="utf-8"), flags=re.DOTALL)
