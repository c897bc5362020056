"""Named tensors of a safetensors checkpoint, read by byte ranges: whole shards are never loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from integrand.errors import DataError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# the format's own limit
_LARGEST_HEADER = 100_000_000
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
    try:
        data = json.loads(_exactly(files, name, 0, size))
    except ValueError:
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
            raise DataError(f"{INDEX} in {files.where} names a shard outside its folder: '{shard}'")
        if files.size(shard) is None:
            raise DataError(f"{files.where} lacks the shard {shard} that {INDEX} names")
        held = _header(files, shard)
        entries.update({n: e for n, e in held.items() if weights.get(n) == shard})
    if lost := sorted(set(weights) - set(entries)):
        raise DataError(
            f"{INDEX} in {files.where} places '{lost[0]}' in {weights[lost[0]]}, which does not "
            f"hold it ({len(lost)} such names)"
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
        entries = {
            key: Entry(
                *(name, fields["dtype"], tuple(fields["shape"])),
                *(8 + length + int(offset) for offset in fields["data_offsets"]),
            )
            for key, fields in table.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{label} is not a safetensors file: its header is no table") from None
    for key, entry in entries.items():
        if not 8 + length <= entry.start <= entry.end <= size:
            raise DataError(
                f"{label} is truncated: '{key}' ends at byte {entry.end} and the file has {size}; "
                "download it again"
            )
    return entries


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
        raise DataError(f"'{name}' must be a float tensor, got {entry.dtype}")
    count = math.prod(entry.shape)
    if count * dtype.itemsize != len(data):
        raise DataError(
            f"'{name}' of shape {entry.shape} and type {entry.dtype} needs "
            f"{count * dtype.itemsize} bytes, got {len(data)}"
        )
    if not count:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(entry.shape)
