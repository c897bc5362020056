"""Text to token shards: a byte-level BPE, memory-mapped integers, a JSON header with hashes."""

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from integrand.errors import DataError
from integrand.train.config import DataConfig
from integrand.train.text import SEPARATOR, documents, fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1
SHARD_TOKENS = 1 << 27
SMALLEST_VOCABULARY = 257  # every byte and the separator
BPE_CHARACTERS = 20_000_000  # the merges of a small vocabulary have settled long before
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
    def vocab_size(self) -> int:
        return len(self.token_bytes)


def prepare(config: DataConfig, cache_dir: Path | str | None = None) -> TokenData:
    """The tokens of a source: from the cache if they are there and intact, else made and kept."""
    if not SMALLEST_VOCABULARY <= config.vocab_size <= 1 << 20:
        raise DataError(
            f"vocab_size must lie between {SMALLEST_VOCABULARY} (bytes and a separator) and "
            f"{1 << 20}, got {config.vocab_size}; 2048 suits the small recipes"
        )
    if cache_dir is None:
        from integrand.cache import directory

        cache_dir = directory()
    identity = (FORMAT, fingerprint(config.source), config.vocab_size)
    key = json.dumps([*identity, config.max_characters, config.held_out])
    folder = Path(cache_dir) / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if folder.exists():
        try:
            return open_tokens(folder)
        except DataError as error:
            log.warning("making the tokens of %r again: %s", config.source, error)
            shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="making-") as scratch:
        made = Path(scratch) / "tokens"
        made.mkdir()
        _make(config, made)
        try:
            made.rename(folder)
        except OSError:
            # another process was first; its result has the same content
            if not folder.exists():
                raise
    return open_tokens(folder)


def open_tokens(folder: Path) -> TokenData:
    """Shards of `folder`, memory-mapped, each checked against the hash in the header."""
    try:
        header = json.loads((folder / "header.json").read_text())
        splits = header["splits"]
        dtype = np.dtype(header["dtype"])
        token_bytes = np.array(header["token_bytes"], dtype=np.int64)
        shards = [shard for split in ("train", "held_out") for shard in splits[split]]
        for shard in shards:
            with (folder / shard["file"]).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                raise DataError(
                    f"{folder / shard['file']} must have sha256 {shard['sha256'][:12]}..., got "
                    f"{found[:12]}...: the shard is damaged; delete {folder} and run again"
                )
        if header["sha256"] != _digest(splits, header["dtype"]):
            raise KeyError("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} must hold token shards with a header.json, got "
            f"{type(error).__name__}: {error}; delete it and run again"
        ) from None
    train, held_out = (
        [np.asarray(np.memmap(folder / shard["file"], dtype, "r")) for shard in splits[split]]
        for split in ("train", "held_out")
    )
    return TokenData(train, held_out, token_bytes, header, folder)


def split_by_document(texts: list[str], held_out: float) -> tuple[list[str], list[str]]:
    """(train, held out): whole documents, chosen by hash, so that copies stay on one side."""
    if not 0 < held_out < 1:
        raise DataError(f"held_out must lie between 0 and 1, got {held_out}; 0.03 is usual")
    hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
    wanted = held_out * sum(map(len, texts))
    chosen: set[bytes] = set()
    taken = 0
    for digest, text in sorted(zip(hashes, texts, strict=True)):
        if taken >= wanted and digest not in chosen:
            break
        chosen.add(digest)
        taken += len(text)
    train = [t for t, digest in zip(texts, hashes, strict=True) if digest not in chosen]
    if not train:
        raise DataError(
            f"held-out text is split off by document, and {len(set(hashes))} distinct document(s) "
            "leave none to train on; pass more text, or separate documents by "
            f"{SEPARATOR} in a .txt file"
        )
    return train, [t for t, digest in zip(texts, hashes, strict=True) if digest in chosen]


def train_tokenizer(texts: list[str], vocab_size: int) -> "Tokenizer":
    """A byte-level BPE: any text encodes, every token stands for a known number of bytes."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise DataError("making tokens needs tokenizers; pip install 'integrand[demo]'") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    budget = BPE_CHARACTERS
    sample = []
    for text in texts:
        sample.append(text[:budget])
        budget -= len(sample[-1])
        if budget <= 0:
            break
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _make(config: DataConfig, folder: Path) -> None:
    texts = documents(config.source, config.max_characters)
    train, held_out = split_by_document(texts, config.held_out)
    tokenizer = train_tokenizer(train, config.vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    dtype = "uint16" if size <= 1 << 16 else "uint32"
    splits = {
        name: _write_shards(tokenizer, part, folder, name, dtype)
        for name, part in (("train", train), ("held_out", held_out))
    }
    # in the byte-level alphabet each character of a token is one byte
    lengths = [0] * size
    for token, index in tokenizer.get_vocab().items():
        lengths[index] = 0 if token == SEPARATOR else len(token)
    header = {
        "format": FORMAT,
        "source": config.source,
        "documents": {"train": len(train), "held_out": len(held_out)},
        "characters": {"train": sum(map(len, train)), "held_out": sum(map(len, held_out))},
        "dtype": dtype,
        "splits": splits,
        "sha256": _digest(splits, dtype),
        "token_bytes": lengths,
    }
    (folder / "header.json").write_text(json.dumps(header))


def _write_shards(
    tokenizer: "Tokenizer", texts: list[str], folder: Path, split: str, dtype: str
) -> list[dict[str, Any]]:
    separator = tokenizer.token_to_id(SEPARATOR)
    shards: list[dict[str, Any]] = []
    pending: list[np.ndarray] = []
    waiting = 0

    def flush() -> None:
        nonlocal pending, waiting
        data = np.concatenate(pending).tobytes()
        name = f"{split}-{len(shards):05d}.bin"
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append({"file": name, "tokens": waiting, "sha256": digest})
        pending, waiting = [], 0

    for start in range(0, len(texts), 256):
        for encoding in tokenizer.encode_batch(texts[start : start + 256]):
            pending.append(np.array([*encoding.ids, separator], dtype=dtype))
            waiting += len(pending[-1])
        if waiting >= SHARD_TOKENS:
            flush()
    if pending:
        flush()
    return shards


def _digest(splits: dict[str, list[dict[str, Any]]], dtype: str) -> str:
    digest = hashlib.sha256(dtype.encode())
    for split in ("train", "held_out"):
        for shard in splits[split]:
            digest.update(f"{split} {shard['sha256']}".encode())
    return digest.hexdigest()
