"""Tokens of a source: memory-mapped shards, kept in the cache and checked by their hashes."""

import hashlib
import json
import logging
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from integrand.cache import directory, locked_file
from integrand.errors import DataError
from integrand.train.config import DataConfig
from integrand.train.shards import HEADER, SPLITS, digest, make
from integrand.train.text import fingerprint

FORMAT = 2
SMALLEST_VOCABULARY = 257  # every byte and the separator
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenData:
    """Verified tokens of the two splits, with what it takes to count bytes and to decode."""

    train: list[np.ndarray]
    held_out: list[np.ndarray]
    token_bytes: np.ndarray  # (vocab_size,) bytes of text behind each token; 0 for the separator
    header: dict[str, Any]
    folder: Path

    @property
    def sha256(self) -> str:
        """Hash over every shard of both splits."""
        return self.header["sha256"]

    @property
    def separator(self) -> int:
        """The id that ends each document."""
        return self.header["separator"]

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)


def prepare(config: DataConfig, cache_dir: Path | str | None = None) -> TokenData:
    """The tokens of a source: from the cache if they are there and intact, else made and kept.

    The source is streamed; a call that was killed is gone on with by the next. Of several processes
    one makes the tokens and the others wait.
    """
    if not SMALLEST_VOCABULARY <= config.vocab_size <= 1 << 20:
        raise DataError(
            f"vocab_size must lie between {SMALLEST_VOCABULARY} (bytes and a separator) and "
            f"{1 << 20}, got {config.vocab_size}; 2048 suits the small recipes"
        )
    if not 0 < config.held_out < 1:
        raise DataError(f"held_out must lie between 0 and 1, got {config.held_out}; 0.03 is usual")
    folder = Path(cache_dir or directory()) / "tokens" / _key(config)
    if folder.exists():
        try:
            return open_tokens(folder)
        except DataError as error:
            log.warning("making the tokens of %r again: %s", config.source, error)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(folder.with_suffix(".lock"), math.inf) as held:
        if folder.exists():
            try:
                return open_tokens(folder)
            except DataError:
                shutil.rmtree(folder, ignore_errors=True)
        # where files cannot be locked, processes must not share a folder
        unfinished = folder.with_suffix(".making" if held else f".making-{os.getpid()}")
        make(config, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            # another process was first; its result has the same content
            if not folder.exists():
                raise
    return open_tokens(folder)


def _key(config: DataConfig) -> str:
    """Name of the folder: a hash of all that decides the tokens."""
    given = None
    if config.tokenizer is not None:
        try:
            given = hashlib.sha256(Path(config.tokenizer).read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(
                f"tokenizer must be a readable tokenizer.json, got {config.tokenizer!r}: "
                f"{error.strerror}; check the path"
            ) from None
    decides = [FORMAT, fingerprint(config.source), config.vocab_size, given]
    decides += [config.max_characters, config.held_out]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:24]


def open_tokens(folder: Path) -> TokenData:
    """Shards of `folder`, memory-mapped, each checked against the hash in the header."""
    try:
        header = json.loads((folder / HEADER).read_text())
        splits = header["splits"]
        dtype = np.dtype(header["dtype"])
        token_bytes = np.array(header["token_bytes"], dtype=np.int64)
        shards = [shard for split in SPLITS for shard in splits[split]]
        for shard in shards:
            with (folder / shard["file"]).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                raise DataError(
                    f"{folder / shard['file']} must have sha256 {shard['sha256'][:12]}..., got "
                    f"{found[:12]}...: the shard is damaged; delete {folder} and run again"
                )
        if header["sha256"] != digest(splits, header["dtype"]):
            raise KeyError("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} must hold token shards with a header.json, got "
            f"{type(error).__name__}: {error}; delete it and run again"
        ) from None
    train, held_out = (
        [np.asarray(np.memmap(folder / shard["file"], dtype, "r")) for shard in splits[split]]
        for split in SPLITS
    )
    return TokenData(train, held_out, token_bytes, header, folder)
