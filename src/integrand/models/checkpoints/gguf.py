"""xIELU's raw parameters in a GGUF file: `xielu.alpha_p`, `.alpha_n`, `.beta`, `.eps`.

The keys have no architecture's prefix, hold fp32, one number per layer (or one for all), and the
alphas raw: llama.cpp applies the softplus when it builds its graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from integrand.errors import DataError
from integrand.models.checkpoints.formats import check
from integrand.models.checkpoints.parameters import XieluParameters

FIELDS = ("alpha_p", "alpha_n", "beta", "eps")


def read_gguf(path: Path) -> XieluParameters:
    """The raw parameters in a GGUF file's metadata.

    Raises:
        DataError: not a GGUF file, a missing key, or arrays of different lengths.
    """
    reader = _reader(path)
    found = {name: _numbers(reader, f"xielu.{name}") for name in FIELDS}
    columns = {name: column for name, column in found.items() if column}
    if lost := [f"xielu.{name}" for name in FIELDS if name not in columns]:
        raise DataError(
            f"{path} must hold every activation parameter, and these are missing: "
            f"{', '.join(lost)}; convert it again from a checkpoint that has them"
        )
    layers = _layers(reader) or max(map(len, columns.values()))
    whole = {name: c * layers if len(c) == 1 else c for name, c in columns.items()}
    if lengths := {f"xielu.{n}": len(c) for n, c in whole.items() if len(c) != layers}:
        raise DataError(f"{path} has {layers} layers, and arrays of other lengths: {lengths}")
    rows = zip(*(torch.tensor(whole[n], dtype=torch.float32).unbind() for n in FIELDS), strict=True)
    raw = tuple(
        {name: number.reshape(1) for name, number in zip(FIELDS, row, strict=True)} for row in rows
    )
    parameters = XieluParameters(raw, "softplus")
    check(parameters)
    return parameters


def write_gguf(parameters: XieluParameters, path: Path, dtype: torch.dtype | None = None) -> None:
    """A GGUF file whose metadata hold the raw parameters, and no tensors: to be merged.

    Raises:
        DataError: one alpha per expert, or fp64 numbers that fp32 cannot hold, unless dtype asks.
    """
    gguf = _module()
    made = parameters.stored_as("softplus", dtype)
    columns: dict[str, list[float]] = {}
    for name in FIELDS:
        tensors = [raw[name] for raw in made.raw]
        if any(t.numel() != 1 for t in tensors):
            raise DataError(f"GGUF holds one {name} per layer; keep a format with one per expert")
        columns[name] = [t.double().item() for t in tensors]
        if any(t.double().item() != t.float().double().item() for t in tensors):
            raise DataError(
                f"GGUF holds fp32, and {name} does not fit without rounding; pass "
                "dtype=torch.float32 to round"
            )
    writer = gguf.GGUFWriter(path, "apertus")
    writer.add_block_count(len(made.raw))
    for name in FIELDS:
        writer.add_array(f"xielu.{name}", columns[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _reader(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise DataError(f"{path} is not a GGUF file; its first bytes say otherwise")
    try:
        return _module().GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} is a damaged GGUF file ({error}); download it again") from None


def _module() -> Any:
    try:
        import gguf
    except ImportError:
        raise DataError("GGUF files need the gguf package; pip install gguf") from None
    return gguf


def _numbers(reader: Any, key: str) -> list[float] | None:
    field = reader.get_field(key)
    if field is None:
        return None
    contents = field.contents()
    return [float(v) for v in (contents if isinstance(contents, list) else [contents])]


def _layers(reader: Any) -> int | None:
    field = reader.get_field("general.architecture")
    count = reader.get_field(f"{field.contents()}.block_count") if field is not None else None
    return int(count.contents()) if count is not None else None
