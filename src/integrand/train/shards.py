"""A stream of documents to shards of token ids; a killed making goes on at its last shard."""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from integrand.errors import DataError
from integrand.train.config import DataConfig
from integrand.train.files import read_json, write_json
from integrand.train.progress import clock
from integrand.train.text import SEPARATOR, Documents
from integrand.train.tokenizer import (
    BPE_CHARACTERS,
    encode,
    load_tokenizer,
    separator,
    token_bytes,
    train_tokenizer,
)

SHARD_TOKENS = 1 << 27
BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 1 << 23
HEADER = "header.json"
PROGRESS = "progress.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "held_out")


@dataclass(slots=True)
class Progress:
    """What is finished, replaced on disk whenever shards are."""

    cut: int
    shards: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {s: [] for s in SPLITS})
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    characters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    stream: dict[str, Any] | None = None


def make(config: DataConfig, folder: Path) -> None:
    """Fill `folder` with a tokenizer, shards and a header, or finish what a killed call began.

    The result is the same bit by bit whether it was interrupted or not.
    """
    if (folder / HEADER).exists():  # killed after the last shard
        (folder / PROGRESS).unlink(missing_ok=True)
        return
    if not (folder / PROGRESS).exists():
        _begin(config, folder)
    try:
        progress = Progress(**read_json(folder / PROGRESS))
    except TypeError as error:
        raise DataError(
            f"{folder / PROGRESS} must say how far the making of tokens is, got {error}; delete "
            f"{folder} and run again"
        ) from None
    tokenizer = load_tokenizer(folder / TOKENIZER)
    lengths = token_bytes(tokenizer)
    end = separator(tokenizer)
    dtype = "uint16" if len(lengths) <= 1 << 16 else "uint32"
    stream = Documents(config.source, config.max_characters, progress.stream)
    line = _Line(stream)
    open_shards: dict[str, Shard] = {}
    for texts in _batches(stream):
        for text, ids in zip(texts, encode(tokenizer, texts, lengths), strict=True):
            split = "held_out" if place(text) < progress.cut else "train"
            if split not in open_shards:
                name = f"{split}-{len(progress.shards[split]):05d}.bin"
                open_shards[split] = Shard(folder / name)
            open_shards[split].add(np.append(ids, end).astype(dtype))
            progress.documents[split] += 1
            progress.characters[split] += len(text)
        for shard in open_shards.values():
            shard.write()
        waiting = sum(shard.tokens for shard in open_shards.values())
        line.show(progress, waiting)
        if waiting >= SHARD_TOKENS:
            _finish(open_shards, progress, stream, folder)
    _finish(open_shards, progress, stream, folder)
    header = {
        "source": config.source,
        "documents": progress.documents,
        "characters": progress.characters,
        "dtype": dtype,
        "separator": end,
        "splits": progress.shards,
        "sha256": digest(progress.shards, dtype),
        "token_bytes": lengths.tolist(),
    }
    write_json(folder / HEADER, header)
    (folder / PROGRESS).unlink()


def place(text: str) -> int:
    """Where a document falls in [0, 2^64): by its text alone, so that copies fall together."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def held_out_cut(texts: Iterable[str], held_out: float) -> int:
    """Documents placed below it are held out: held_out * 2^64, moved if that empties a side.

    `texts` are the first of the source; at least one of them is on either side.
    """
    places = {place(text) for text in texts}
    if len(places) < 2:
        raise DataError(
            f"held-out text is split off by document, and {len(places)} distinct document(s) "
            "leave none to train on; pass more text, or separate documents by "
            f"{SEPARATOR} in a .txt file"
        )
    return min(max(int(held_out * 2**64), min(places) + 1), max(places))


def digest(splits: dict[str, list[dict[str, Any]]], dtype: str) -> str:
    """One hash for all shards, in order."""
    total = hashlib.sha256(dtype.encode())
    for split in SPLITS:
        for shard in splits[split]:
            total.update(f"{split} {shard['sha256']}".encode())
    return total.hexdigest()


class Shard:
    """Token ids appended to a file, which gets its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens = 0
        self._sha256 = hashlib.sha256()
        self._scratch = path.with_name(f".{path.name}")
        self._scratch.unlink(missing_ok=True)
        self._waiting: list[np.ndarray] = []

    def add(self, ids: np.ndarray) -> None:
        self.tokens += len(ids)
        self._waiting.append(ids)

    def write(self) -> None:
        data = b"".join(ids.tobytes() for ids in self._waiting)
        self._waiting = []
        self._sha256.update(data)
        with self._scratch.open("ab") as file:
            file.write(data)

    def close(self) -> dict[str, Any]:
        with self._scratch.open("rb") as file:
            os.fsync(file.fileno())
        self._scratch.replace(self.path)
        return {"file": self.path.name, "tokens": self.tokens, "sha256": self._sha256.hexdigest()}


def _begin(config: DataConfig, folder: Path) -> None:
    """Decide from the first texts what the whole source needs: the split and the tokenizer."""
    texts: list[str] = []
    characters = 0
    for text in Documents(config.source, config.max_characters):
        texts.append(text)
        characters += len(text)
        if characters >= BPE_CHARACTERS:
            break
    cut = held_out_cut(texts, config.held_out)
    if config.tokenizer is None:
        train = (text for text in texts if place(text) >= cut)
        tokenizer = train_tokenizer(train, config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
        separator(tokenizer)
        if (needed := len(token_bytes(tokenizer))) > config.vocab_size:
            raise DataError(
                f"vocab_size must cover every token of {config.tokenizer}, got "
                f"{config.vocab_size}; set it to {needed} or more, in the model too"
            )
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER))
    write_json(folder / PROGRESS, asdict(Progress(cut)))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _finish(
    open_shards: dict[str, Shard], progress: Progress, stream: Documents, folder: Path
) -> None:
    for split, shard in open_shards.items():
        progress.shards[split].append(shard.close())
    open_shards.clear()
    progress.stream = stream.state()
    write_json(folder / PROGRESS, asdict(progress))


class _Line:
    """Lines on stderr every few seconds: documents, tokens, speed, time left."""

    EVERY_SECONDS = 5.0

    def __init__(self, stream: Documents) -> None:
        self.stream = stream
        self.expected = stream.expected_characters()
        self.first = stream.characters
        self.started = self.shown = time.monotonic()

    def show(self, progress: Progress, waiting: int) -> None:
        now = time.monotonic()
        if now - self.shown < self.EVERY_SECONDS:
            return
        self.shown = now
        closed = sum(shard["tokens"] for split in SPLITS for shard in progress.shards[split])
        tokens = closed + waiting
        read = self.stream.characters
        rate = (read - self.first) / (now - self.started)
        print(
            f"tokens of {self.stream.source}: {sum(progress.documents.values()):,} documents, "
            f"{tokens:,} tokens, {rate * tokens / read:,.0f} tokens/s, "
            f"about {clock(max(0, self.expected - read) / rate)} left",
            file=sys.stderr,
            flush=True,
        )
