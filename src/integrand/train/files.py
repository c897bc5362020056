"""Files of a run: written whole or not at all, or appended line by line."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from integrand.errors import DataError


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one move: a reader sees the old file or the new one."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> Path:
    """The same for text; `path`."""
    # machines that share a folder may share process ids
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return scratch.replace(path)


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
            scratch = path.with_name(f".{path.name}.{os.getpid()}")
            scratch.write_text("".join(json.dumps(row) + "\n" for row in self.kept))
            scratch.replace(path)
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
    """Rows of a metrics.jsonl; a last line cut short by a kill is left out."""
    if not path.exists():
        return
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
