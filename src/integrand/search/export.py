"""Winners as spec files: TOML that every command and `read_spec` take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrand.errors import Error
from integrand.search.confirm import label
from integrand.spec import from_toml, to_toml
from integrand.train.files import write_text


def export_winners(
    winners: Sequence[Mapping[str, Any]], folder: Path | str, command: str = ""
) -> list[Path]:
    """Write one file per row of a search's `front` or `ranking`; the paths.

    Args:
        winners: rows with `spec`, TOML, and what is known of it: `scores`, `parents`, `operation`.
        folder: made if need be; files are named after the spec and its content.
        command: that of the search, for the comment.

    Raises:
        Error: a row without a spec.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_export(row, folder, command) for row in winners]


def _export(row: Mapping[str, Any], folder: Path, command: str) -> Path:
    if not row.get("spec"):
        raise Error(
            f"a winner needs its spec as TOML, got a row with {', '.join(row) or 'nothing'}"
        )
    spec = from_toml(row["spec"])
    known = {
        "found by": command,
        "scores": ", ".join(f"{k} {v:.6g}" for k, v in row.get("scores", {}).items()),
        "parents": ", ".join(key[:12] for key in row.get("parents", ())),
        "operation": row.get("operation", ""),
        "content": spec.sha256,
    }
    # what is told by others stays within its line
    comment = "".join(f"# {k}: {' '.join(v.split())}\n" for k, v in known.items() if v)
    return write_text(folder / f"{label(spec)}.toml", comment + to_toml(spec))
