"""Two halves of a source of text: one that a search sees, one that its winners are confirmed on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from integrand.errors import DataError
from integrand.train.files import read_json, write_json
from integrand.train.text import Documents, fingerprint

KEY = "split.json"


class Halves(NamedTuple):
    """Files of JSON lines, readable as the `source` of a `DataConfig`."""

    search: Path
    confirm: Path


def split_documents(source: str, folder: Path | str, max_characters: int = 100_000_000) -> Halves:
    """Write each document of a source to one of two files, by the hash of its text: equal texts
    never lie on both sides. Files that are there of the same text stay.

    Raises:
        DataError: the source is missing, or one side would be empty.
    """
    folder = Path(folder)
    halves = Halves(folder / "search.jsonl", folder / "confirm.jsonl")
    key = {"text": fingerprint(source), "max_characters": max_characters}
    known = folder / KEY
    if known.exists() and read_json(known) == key and all(half.exists() for half in halves):
        return halves
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".") as scratch:
        made = Halves(*(Path(scratch) / half.name for half in halves))
        counts = _divide(Documents(source, max_characters), made)
        if not all(counts):
            raise DataError(
                f"a search and its confirmation need documents each, got {sum(counts)} from "
                f"'{source}', all on one side; pass a source with more"
            )
        known.unlink(missing_ok=True)
        # moved whole: others that begin at the same time read these, or equal ones
        for new, half in zip(made, halves, strict=True):
            new.replace(half)
    write_json(known, key)
    return halves


def _divide(documents: Iterable[str], halves: Halves) -> list[int]:
    """How many went to each side."""
    counts = [0, 0]
    with halves.search.open("w") as first, halves.confirm.open("w") as second:
        for text in documents:
            side = hashlib.sha256(text.encode()).digest()[0] & 1
            (first, second)[side].write(json.dumps({"text": text}) + "\n")
            counts[side] += 1
    return counts
