"""Every published measurement, one line each, in a file that only grows."""

from __future__ import annotations

import csv
import datetime
import io
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrand.errors import DataError

COLUMNS = (
    "date", "commit", "processor", "threads", "torch", "name", "impl", "compiled", "dtype",
    "shape", "direction", "allocated", "certified", "median_s", "gb_per_s", "percent_of_copy",
    "saved_bytes", "ratios",
)  # fmt: skip


def append(path: Path, rows: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> None:
    """Append rows of `bench` to a CSV file with the header COLUMNS; nothing there is rewritten.

    `ratios` holds `BASELINE=RATIO` pairs, apart by blanks.

    Raises:
        DataError: the file has another header.
    """
    header = ",".join(COLUMNS)
    new = not path.exists() or not path.stat().st_size
    if not new:
        with path.open(encoding="utf-8") as file:
            found = file.readline().rstrip("\n")
        if found != header:
            raise DataError(
                f"{path} must begin with the header '{header}', got '{found[:60]}'; move it away"
            )
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "processor": environment["processor"],
        "torch": environment["packages"]["torch"],
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    if new:
        writer.writeheader()
    for row in rows:
        ratios = [f"{k[6:]}={v:.4g}" for k, v in row.items() if k.startswith("ratio_")]
        shape = "x".join(map(str, row["shape"]))
        numbers = {k: f"{v:.4g}" for k, v in row.items() if isinstance(v, float)}
        writer.writerow({**about, **row, **numbers, "shape": shape, "ratios": " ".join(ratios)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text.getvalue())


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
