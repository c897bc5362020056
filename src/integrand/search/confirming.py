"""The confirmation of a search's winners, from and to its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from integrand.errors import Error
from integrand.search.confirm import confirmation, confirmed
from integrand.search.documents import split_documents
from integrand.search.recipe import Recipe
from integrand.spec import from_toml
from integrand.train.files import read_json, write_json
from integrand.train.studies import run_study

ROWS = "confirmed.json"


def confirm(recipe: Recipe, out_dir: Path, winners: int) -> dict[str, Any]:
    """Train the best `winners` of a finished search beside the references, by the rules of studies,
    on the half of its text that it has not read; the summary with their verdicts.

    The study lies in out_dir/confirmation; the same call goes on after a stop. Raises `Error` where
    the search has fewer candidates, or reads no text.
    """
    summary = read_json(out_dir / "summary.json")
    best = [from_toml(row["spec"]) for row in summary["ranking"][:winners]]
    if not recipe.data or len(best) < winners:
        raise Error(
            f"a confirmation needs {winners} candidates of a search that trains on text, got "
            f"{len(best)} of '{recipe.name}'"
        )
    half = split_documents(recipe.data, out_dir / "text").confirm
    run_study(confirmation(best, str(half)), out_dir / "confirmation")
    summary["confirmed"] = confirmed(best, out_dir / "confirmation")
    write_json(out_dir / ROWS, summary["confirmed"])
    write_json(out_dir / "summary.json", summary)
    return summary


def known(out_dir: Path) -> list[dict[str, Any]]:
    """The verdicts that a folder holds."""
    return read_json(out_dir / ROWS) if (out_dir / ROWS).exists() else []
