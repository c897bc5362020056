"""Many measurements into one results file: what is there already is not measured again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from integrand.errors import CertificationError, DataError
from integrand.timing.benchmark import Row, bench

Keep = Callable[[list[Row], list[Row]], None]
_MACHINE = ("processor", "cores", "threads", "system")


def known_rows(path: Path, environment: Mapping[str, Any]) -> list[Row]:
    """Rows of a results file of `bench` measured on this machine with this torch; else none.

    Raises:
        DataError: the file is something else.
    """
    if not path.exists():
        return []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["kind"] != "bench":
            raise ValueError(data["kind"])
        found = data["environment"]
        same = all(found[k] == environment[k] for k in _MACHINE)
        same = same and found["packages"]["torch"] == environment["packages"]["torch"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must hold results of bench, got {error!r}; choose another file"
        ) from None
    return [r for r in data["rows"] if "activation" in r] if same else []


def campaign(
    acts: Iterable[Any],
    dtypes: Sequence[torch.dtype],
    shapes: Sequence[Sequence[int]],
    known: Sequence[Row],
    keep: Keep,
    progress: Callable[[str], None],
    count: int,
    **options: Any,
) -> tuple[list[Row], list[CertificationError]]:
    """Measure what `known` lacks (by activation, program, dtype, shape): all rows, and refusals.

    `keep` gets all rows so far and the new ones alone after every shape; `options` are those of
    `bench`. Rows of a changed program are replaced.
    """
    rows, refused = list(known), []
    start, done = time.perf_counter(), 0
    for place, act in enumerate(acts):
        digest = act.program.digest[:16]
        rows[:] = [r for r in rows if r["activation"] != act.name or r["program"] == digest]
        missing = {
            dtype: [s for s in shapes if not _measured(rows, act.name, dtype, s)]
            for dtype in dtypes
        }
        for dtype, left in missing.items():
            if not left:
                continue

            def add(new: list[Row]) -> None:
                rows.extend(new)
                keep(rows, new)

            try:
                bench(act, [dtype], left, done=add, progress=progress, **options)
            except CertificationError as error:
                refused.append(error)
        done += any(missing.values())
        if count > 1:
            pace = (time.perf_counter() - start) / max(1, done)
            minutes = pace * (count - place - 1) / 60
            progress(f"{place + 1} of {count}: {act.name}; at most {minutes:.1f} min left")
    return rows, refused


def _measured(rows: Sequence[Row], name: str, dtype: torch.dtype, shape: Sequence[int]) -> bool:
    kind = str(dtype).removeprefix("torch.")
    return any((r["activation"], r["dtype"], r["shape"]) == (name, kind, list(shape)) for r in rows)
