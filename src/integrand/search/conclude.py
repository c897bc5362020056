"""The end of a search: its best are confirmed, exported and shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integrand.errors import DataError, Error
from integrand.search.confirm import SIZES, confirmation, confirmed
from integrand.search.export import export_winners
from integrand.search.page import write_page
from integrand.spec import from_toml
from integrand.train.files import read_json, write_json
from integrand.train.studies import run_study

CONFIRMED = "confirmed.json"


def conclude(
    folder: Path | str,
    data: str,
    winners: int = 3,
    *,
    sizes: tuple[str, ...] = SIZES,
    seeds: tuple[int, int] = (5, 10),
    changes: Mapping[str, Any] | None = None,
    at_most: int | None = None,
    quiet: bool = False,
) -> Path:
    """Confirm the first of a search's ranking, references left out; the path of the page.

    The folder of the search gets confirm/ (a study: stopped, the same call goes on, as many
    processes as one likes share it), confirmed.json, winners/*.toml and report.html, and its
    summary.json the verdicts. For `data`, `sizes`, `seeds` and `changes` see `confirmation`;
    `at_most` runs are trained here.

    Raises:
        Error: fewer than one winner.
        DataError: the folder holds no search with a candidate that was scored.
    """
    if winners < 1:
        raise Error(f"a confirmation needs at least 1 winner, got {winners}")
    folder = Path(folder)
    path = folder / "summary.json"
    summary = read_json(path) if path.exists() else {}
    found = [row for row in summary.get("ranking", []) if row["operation"] != "reference"]
    if not (chosen := found[:winners]):
        raise DataError(f"{folder} must hold a search that has scored candidates; run it first")
    specs = [from_toml(row["spec"]) for row in chosen]
    plan = confirmation(specs, data, sizes=sizes, seeds=seeds, changes=changes)
    run_study(plan, folder / "confirm", at_most=at_most, quiet=quiet)
    found = confirmed(specs, folder / "confirm")
    write_json(folder / CONFIRMED, {"kind": "confirmed", "rows": found})
    write_json(path, {**summary, "confirmed": found})
    export_winners(chosen, folder / "winners", summary["command"])
    return write_page(folder)


def known(folder: Path | str) -> list[dict[str, Any]]:
    """The verdicts that a folder holds: a search that goes on keeps them in its summary."""
    path = Path(folder) / CONFIRMED
    return read_json(path)["rows"] if path.exists() else []
