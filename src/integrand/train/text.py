"""Documents from the Python installation, from local files, or from the hub: a stream of them."""

import hashlib
import importlib
import json
import mmap
import os
import re
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from integrand.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".parquet")
# absent from some installations, or tables rather than text
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "encodings", "site-packages", "dist-packages"}
SEPARATOR = "<|endoftext|>"
PIECE_BYTES = 10_000


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


class Documents:
    """The texts of a source in a fixed order, the last one cut at `max_characters` in total.

    One is in memory at a time. `state()` says, as JSON, where reading stands: Documents made with
    it go on with the next text.
    """

    def __init__(
        self, source: str, max_characters: int, state: dict[str, Any] | None = None
    ) -> None:
        self.source = source
        self.max_characters = max_characters
        state = state or {"rows": 0, "characters": 0, "position": None}
        self.rows: int = state["rows"]
        self.characters: int = state["characters"]
        self._position: dict[str, Any] | None = state["position"]
        self._dataset: Any = None  # of the hub, once it is open

    def __iter__(self) -> Iterator[str]:
        read = self._hub() if self.source.startswith("hf:") else self._files()
        while self.characters < self.max_characters and (text := next(read, None)) is not None:
            self.rows += 1
            if text.strip():
                text = text[: self.max_characters - self.characters]
                self.characters += len(text)
                yield text
        if not self.characters:
            raise DataError(
                f"{self.source!r} holds no text; pass a source with at least two documents"
            )

    def state(self) -> dict[str, Any]:
        knows = hasattr(self._dataset, "state_dict")
        position = self._dataset.state_dict() if knows else None
        return {"rows": self.rows, "characters": self.characters, "position": position}

    def expected_characters(self) -> int:
        """About how many there will be: bytes of text for files, the cap for the hub."""
        if self.source.startswith("hf:"):
            return self.max_characters
        return min(self.max_characters, sum(map(_text_bytes, source_files(self.source))))

    def _files(self) -> Iterator[str]:
        return islice(_local(self.source), self.rows, None)

    def _hub(self) -> Iterator[str]:
        """Rows of hf:NAME or hf:NAME:SUBSET, split train, streamed."""
        try:
            datasets = importlib.import_module("datasets")
        except ImportError:
            raise DataError(
                f"{self.source!r} needs datasets; pip install 'integrand[data]'"
            ) from None
        name, _, subset = self.source.removeprefix("hf:").partition(":")
        try:
            rows = datasets.load_dataset(name, subset or None, split="train", streaming=True)
            self._dataset = rows
            if self._position is not None and hasattr(rows, "load_state_dict"):
                rows.load_state_dict(self._position)
            else:
                rows = islice(rows, self.rows, None)
            for row in rows:
                yield _text_field(row, f"a row of {self.source}")
        except DataError:
            raise
        except Exception as error:
            # the hub client raises its own, undocumented kinds: network, name, permission
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"cannot stream {self.source!r}: {type(error).__name__}: {reason}; "
                "check the name and the network, or pass a local file"
            ) from error


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
    """Documents of a .txt file: between separators, else whole paragraphs up to a size."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # an ASCII pattern never matches inside a UTF-8 character
        separated = data.find(SEPARATOR.encode()) >= 0
        divider = re.compile(re.escape(SEPARATOR).encode() if separated else rb"\r?\n\r?\n")
        least = 0 if separated else PIECE_BYTES
        start = 0
        while start <= len(data):
            found = divider.search(data, start + least)
            end, after = found.span() if found else (len(data), len(data) + 1)
            try:
                text = data[start:end].decode()
            except UnicodeDecodeError as error:
                at = start + error.start
                raise DataError(
                    f"text must be UTF-8, got byte {data[at]:#04x} at offset {at} of {path}; "
                    "convert it with iconv"
                ) from None
            yield text.replace("\r\n", "\n").replace("\r", "\n")
            start = after


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
    file = _open_parquet(path)
    if "text" not in file.schema_arrow.names:
        raise DataError(
            f"{path} must have a column `text`, got {', '.join(file.schema_arrow.names)}; rename it"
        )
    try:
        for batch in file.iter_batches(batch_size=1024, columns=["text"]):
            for text in batch.column(0).to_pylist():
                if text is not None and not isinstance(text, str):
                    raise DataError(
                        f"the column `text` of {path} must hold strings, got "
                        f"{type(text).__name__}; convert it"
                    )
                if text:
                    yield text
    except _damage() as error:
        raise _unreadable(path, error) from None


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow; pip install 'integrand[data]'") from None
    try:
        return parquet.ParquetFile(path)
    except _damage() as error:
        raise _unreadable(path, error) from None


def _damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises where a file is damaged."""
    from pyarrow import ArrowException

    return ArrowException, OSError, UnicodeDecodeError


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a readable parquet file: {error}; download it again")


def _text_bytes(path: Path) -> int:
    """Size of a file's text before compression."""
    if path.suffix != ".parquet":
        return path.stat().st_size
    about = _open_parquet(path).metadata
    groups = (about.row_group(group) for group in range(about.num_row_groups))
    columns = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema == "text")


def _text_field(row: Any, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        got = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{where} must have a text field `text`, got {got}; rename the field")
    try:
        row["text"].encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where} must hold Unicode text, got half of a surrogate pair; write it as UTF-8"
        ) from None
    return row["text"]
