"""The tables of the README, from results as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from integrand.errors import DataError
from integrand.report import tables
from integrand.train.files import read_json

_TABLES = {
    "certify": lambda data: tables.certificates(data["rows"]),
    "bench": lambda data: tables.speeds(data["rows"]),
    "study": lambda data: tables.study(data["variants"]),
}


def markdown(path: Path | str) -> str:
    """The Markdown table of a results file (`{"kind": "certify" | "bench" | "study", ...}`).

    Raises:
        DataError: the file is no such result.
    """
    data: Any = read_json(Path(path))
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in _TABLES:
        raise DataError(f"{path} must be of kind {', '.join(_TABLES)}, got {kind!r}")
    return _TABLES[kind](data).markdown()
