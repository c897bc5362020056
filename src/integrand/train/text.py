"""Documents from the Python installation, from local files, or streamed from the hub."""

import hashlib
import importlib
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integrand.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".parquet")
# absent from some installations, or tables rather than text
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "encodings", "site-packages", "dist-packages"}
SEPARATOR = "<|endoftext|>"
PIECE_CHARACTERS = 10_000


def source_files(source: str) -> list[Path]:
    """The files behind a source, in an order that is the same on every machine."""
    if source == "python-docs":
        return _standard_library()
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not files:
            raise DataError(
                f"no {', '.join(SUFFIXES)} file under {source!r}; pass a folder that has some"
            )
        return files
    if not path.is_file():
        raise DataError(
            f"data must be python-docs, hf:NAME or an existing file or folder, got {source!r}; "
            "check the path"
        )
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"a data file must end in {', '.join(SUFFIXES)}, got {source!r}; "
            "convert it to JSON lines with a `text` field"
        )
    return [path]


def fingerprint(source: str) -> str:
    """Hash of a source's content; of its name alone where the content is not here (hf:NAME)."""
    digest = hashlib.sha256(source.encode() if source.startswith("hf:") else b"files")
    if not source.startswith("hf:"):
        for path in source_files(source):
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                if source != "python-docs":
                    raise DataError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def documents(source: str, max_characters: int) -> list[str]:
    """The texts of a source in a fixed order, the last one cut at `max_characters` in total.

    All of them are held in memory: `max_characters` is the bound.
    """
    texts: list[str] = []
    left = max_characters
    for text in _hub(source) if source.startswith("hf:") else _local(source):
        if not text.strip():
            continue
        texts.append(text[:left])
        left -= len(texts[-1])
        if left <= 0:
            break
    if not texts:
        raise DataError(f"{source!r} holds no text; pass a source with at least two documents")
    return texts


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED]
        files += [Path(folder) / name for name in names if name.endswith(".py")]
    if not files:
        raise DataError(
            f"this Python has no library sources under {root}; pass --data with a file of your own"
        )

    # by hash of the name: a capped sample is then a fair one, and the same one everywhere
    def order(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()

    return sorted(files, key=order)


def _local(source: str) -> Iterator[str]:
    for path in source_files(source):
        if source == "python-docs":
            try:
                yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
        elif path.suffix == ".txt":
            yield from _plain(path)
        elif path.suffix == ".jsonl":
            yield from _json_lines(path)
        else:
            yield from _parquet(path)


def _plain(path: Path) -> Iterator[str]:
    """Documents of a .txt file: between separator lines, else whole paragraphs up to a size."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text must be UTF-8, got byte {error.object[error.start]:#04x} at offset "
            f"{error.start} of {path}; convert it with iconv"
        ) from None
    if SEPARATOR in text:
        yield from text.split(SEPARATOR)
        return
    piece: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        piece.append(paragraph)
        size += len(paragraph)
        if size >= PIECE_CHARACTERS:
            yield "\n\n".join(piece)
            piece, size = [], 0
    yield "\n\n".join(piece)


def _json_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                start = line[:60].decode(errors="replace")
                raise DataError(
                    f"line {number} of {path} must be a JSON object, got {start!r}; "
                    "write one object with a `text` field per line"
                ) from None
            yield _text_field(row, f"line {number} of {path}")


def _parquet(path: Path) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow; pip install 'integrand[data]'") from None
    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError):
        raise DataError(f"{path} is not a readable parquet file; download it again") from None
    if "text" not in file.schema_arrow.names:
        raise DataError(
            f"{path} must have a column `text`, got {', '.join(file.schema_arrow.names)}; rename it"
        )
    for batch in file.iter_batches(columns=["text"]):
        yield from (text for text in batch.column(0).to_pylist() if text)


def _hub(source: str) -> Iterator[str]:
    """Rows of hf:NAME or hf:NAME:SUBSET, split train, streamed."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise DataError(f"{source!r} needs datasets; pip install 'integrand[data]'") from None
    name, _, subset = source.removeprefix("hf:").partition(":")
    try:
        for row in datasets.load_dataset(name, subset or None, split="train", streaming=True):
            yield _text_field(row, f"a row of {source}")
    except DataError:
        raise
    except Exception as error:
        # the hub client raises its own, undocumented kinds: network, name, permission
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"cannot stream {source!r}: {type(error).__name__}: {reason}; "
            "check the name and the network, or pass a local file"
        ) from error


def _text_field(row: Any, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        got = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{where} must have a text field `text`, got {got}; rename the field")
    return row["text"]
