"""Named tensors of a safetensors checkpoint, read by byte ranges: whole shards are never loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from integrand.errors import DataError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# the format's own limit
_LARGEST_HEADER = 100_000_000
# more than any activation's parameters take; a stranger's header must not fill the memory
_MOST_BYTES = 1 << 30
_LONGEST_NAME, _MOST_DIMENSIONS = 1000, 64
# what parsing can raise on text that is no table of tensors
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
# neighbours this close are fetched together: a request costs more than these bytes
_GAP = 4096

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Files(Protocol):
    """Where a checkpoint lies: a folder or a repository on the hub."""

    where: str
    bytes_read: int

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file."""
        ...


@dataclass(frozen=True)
class Entry:
    """A tensor in a shard: bytes [start, end) of the file."""

    shard: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class TensorMap(Mapping[str, Entry]):
    """Where every tensor of a checkpoint lies; `tensors(names)` reads some."""

    files: Files
    entries: Mapping[str, Entry]

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by name, in the order asked for, in their stored dtype."""
        wanted = {name: self.entries[name] for name in names}
        if (size := sum(e.end - e.start for e in wanted.values())) > _MOST_BYTES:
            raise DataError(
                f"the activation's tensors in {self.files.where} must take at most {_MOST_BYTES} "
                f"bytes, got {size}; check that this is the checkpoint you mean"
            )
        found: dict[str, Tensor] = {}
        ordered = sorted(wanted, key=lambda n: (wanted[n].shard, wanted[n].start))
        for run in _runs(ordered, wanted):
            first, last = wanted[run[0]], max(wanted[n].end for n in run)
            data = _exactly(self.files, first.shard, first.start, last)
            for name in run:
                entry = wanted[name]
                part = data[entry.start - first.start : entry.end - first.start]
                found[name] = _tensor(name, entry, part)
        return {name: found[name] for name in wanted}


def tensor_map(files: Files, single: str | None = None) -> TensorMap:
    """The tensors of one safetensors file, or of the checkpoint that lies in a folder.

    Raises:
        DataError: no checkpoint, a missing shard, or a damaged header.
    """
    if single is None:
        single = SINGLE
        if files.size(INDEX) is not None:
            return TensorMap(files, _sharded(files))
    if files.size(single) is None:
        raise DataError(
            f"{files.where} must hold {SINGLE} or {INDEX}, and has neither; "
            "only safetensors checkpoints and .gguf files are read"
        )
    return TensorMap(files, _header(files, single))


def read_json(files: Files, name: str) -> dict[str, Any] | None:
    """A JSON object such as config.json, None where there is no such file."""
    size = files.size(name)
    if size is None:
        return None
    if size > _LARGEST_HEADER:
        raise DataError(f"{name} in {files.where} is no config: it has {size} bytes")
    try:
        data = json.loads(_exactly(files, name, 0, size))
    except _UNREADABLE:
        raise DataError(f"{name} in {files.where} is not JSON; download it again") from None
    if not isinstance(data, dict):
        raise DataError(f"{name} in {files.where} must hold an object, got {type(data).__name__}")
    return data


def _sharded(files: Files) -> dict[str, Entry]:
    weights = (read_json(files, INDEX) or {}).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(s, str) for s in weights.values()):
        raise DataError(f"{INDEX} in {files.where} needs a weight_map of names to shard files")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(weights.values())):
        # an index from a stranger must not point outside its folder
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise DataError(
                f"{INDEX} in {files.where} names a shard outside its folder: {shown(shard)}"
            )
        if len(shard) > 255 or not shard.isprintable():
            raise DataError(f"{INDEX} in {files.where} names no shard's file: {shown(shard)}")
        if files.size(shard) is None:
            raise DataError(f"{files.where} lacks the shard {shard} that {INDEX} names")
        held = _header(files, shard)
        entries.update({n: e for n, e in held.items() if weights.get(n) == shard})
    if lost := sorted(set(weights) - set(entries)):
        raise DataError(
            f"{INDEX} in {files.where} places {shown(lost[0])} in {weights[lost[0]]}, which does "
            f"not hold it ({len(lost)} such names)"
        )
    return entries


def _header(files: Files, name: str) -> dict[str, Entry]:
    size = files.size(name) or 0
    label = f"{name} in {files.where}"
    if size < 8:
        raise DataError(f"{label} is not a safetensors file: {size} bytes hold no header")
    (length,) = struct.unpack("<Q", _exactly(files, name, 0, 8))
    if length > _LARGEST_HEADER:
        raise DataError(f"{label} is not a safetensors file: its header would be {length} bytes")
    if 8 + length > size:
        raise DataError(
            f"{label} is truncated: its header needs {8 + length} bytes and the file has {size}; "
            "download it again"
        )
    try:
        table = json.loads(_exactly(files, name, 8, 8 + length))
        table.pop("__metadata__", None)
        described = list(table.items())
    except _UNREADABLE:
        raise DataError(f"{label} is not a safetensors file: its header is no table") from None
    entries = {key: _entry(label, name, key, fields, 8 + length) for key, fields in described}
    _check_places(label, entries, size)
    return entries


def _entry(label: str, shard: str, key: str, fields: Any, begin: int) -> Entry:
    held: dict[str, Any] = fields if isinstance(fields, dict) else {}
    dtype: Any = held.get("dtype")
    shape: Any = held.get("shape")
    offsets: Any = held.get("data_offsets")
    if not (
        isinstance(dtype, str)
        and _are_sizes(shape, range(_MOST_DIMENSIONS + 1))
        and _are_sizes(offsets, (2,))
        and offsets[0] <= offsets[1]
    ):
        raise DataError(
            f"{label} is not a safetensors file: {shown(key)} needs a dtype, a shape of integers "
            "and two data_offsets in order; download it again"
        )
    # such a name would end up in tables and messages
    if len(key) > _LONGEST_NAME or not key.isprintable():
        raise DataError(
            f"{label} must name tensors by at most {_LONGEST_NAME} printable characters, got "
            f"{shown(key)}"
        )
    return Entry(shard, dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _are_sizes(numbers: Any, counts: Collection[int]) -> bool:
    """Whether these are integers from 0 to the largest of 64 bits; True is an int, and no size."""
    return (
        isinstance(numbers, list)
        and len(numbers) in counts
        and all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
    )


def _check_places(label: str, entries: Mapping[str, Entry], size: int) -> None:
    before, held = 0, ""
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.end > size:
            raise DataError(
                f"{label} is truncated: '{key}' ends at byte {entry.end} and the file has {size}; "
                "download it again"
            )
        if entry.start < before:
            raise DataError(
                f"{label} is damaged: '{held}' and '{key}' overlap at byte {entry.start}; "
                "download it again"
            )
        before, held = entry.end, key


def shown(name: str) -> str:
    """A stranger's name in a message: on one line, and not longer than that."""
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def _runs(ordered: list[str], entries: Mapping[str, Entry]) -> Iterable[list[str]]:
    """Names whose tensors are near one another in one shard."""
    run: list[str] = []
    for name in ordered:
        entry = entries[name]
        if run and (
            entry.shard != entries[run[-1]].shard or entry.start - entries[run[-1]].end > _GAP
        ):
            yield run
            run = []
        run.append(name)
    if run:
        yield run


def _exactly(files: Files, name: str, start: int, end: int) -> bytes:
    data = files.read(name, start, end)
    if len(data) != end - start:
        raise DataError(
            f"{name} in {files.where} ended early: {len(data)} of {end - start} bytes at {start}; "
            "download it again"
        )
    return data


def _tensor(name: str, entry: Entry, data: bytes) -> Tensor:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise DataError(f"'{name}' must be a float tensor, got {shown(entry.dtype)}")
    count = math.prod(entry.shape)
    if not count:
        raise DataError(f"'{name}' must hold numbers, got shape {entry.shape}")
    if count * dtype.itemsize != len(data):
        raise DataError(
            f"'{name}' of shape {entry.shape} and type {entry.dtype} needs "
            f"{count * dtype.itemsize} bytes, got {len(data)}"
        )
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(entry.shape)
