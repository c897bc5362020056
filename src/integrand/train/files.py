"""Files of a run: written whole or not at all, or appended line by line."""

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from integrand.errors import DataError


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one move: a reader sees the old file or the new one.

    JSON has no NaN and no infinity: they become null.
    """
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> Path:
    """The same for text; `path`."""
    # machines that share a folder may share process ids
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return scratch.replace(path)


def sync(folder: Path) -> None:
    """Put the names in a folder on the disk: a move outlives a power cut only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must be a JSON file, got {type(error).__name__}: {error}"
        ) from None


class MetricsLog:
    """metrics.jsonl of a run: one JSON object per line with `kind` and `step`, flushed at once."""

    def __init__(
        self,
        path: Path | None,
        keep_until: int,
        send: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        """Open for appending; rows after step `keep_until` belong to lost steps and go.

        `send` gets every new row too. Without a path rows are dropped: another rank writes them.
        """
        self._send = send
        self.kept: list[dict[str, Any]] = []
        if path is not None:
            self.kept = [row for row in read_metrics(path) if row["step"] <= keep_until]
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.kept))
        self._file = (path or Path(os.devnull)).open("a")

    def add(self, kind: str, step: int, **values: Any) -> None:
        row = {"kind": kind, "step": step, **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._send(row)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line cut short by a kill is left out.

    Raises:
        DataError: another line is no row.
    """
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                continue
            try:
                row = json.loads(line)
                row["kind"], row["step"]
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"line {number} of {path} must be a JSON object with `kind` and `step`, got "
                    f"{type(error).__name__}: {error}; delete that line, or the folder"
                ) from None
            yield row
