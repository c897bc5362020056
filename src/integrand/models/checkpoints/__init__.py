"""xIELU's parameters in the checkpoints that exist: read, converted, written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from integrand.errors import DataError
from integrand.models.checkpoints import formats
from integrand.models.checkpoints.configs import activations
from integrand.models.checkpoints.formats import FORMATS, detect, format_of, keys_of
from integrand.models.checkpoints.gguf import read_gguf, write_gguf
from integrand.models.checkpoints.parameters import XieluParameters
from integrand.models.checkpoints.places import place
from integrand.models.checkpoints.ranges import read_json, shown, tensor_map
from integrand.models.registered import PREFIX

__all__ = ["FORMATS", "XieluParameters", "read_parameters", "to_tensors", "write_parameters"]


def read_parameters(
    source: str | Path | Mapping[str, Tensor], format: str | None = None
) -> XieluParameters:
    """xIELU's raw parameters, layer by layer, from a checkpoint.

    Args:
        source: a safetensors or GGUF file, a folder with a checkpoint (sharded or not), a hub id
            such as `ORG/NAME@REVISION`, or tensors by name. Only the activation's tensors are read.
        format: a name in `FORMATS`, or "gguf"; None finds it by the keys.

    Raises:
        DataError: in one sentence that names the missing, unknown or misshapen keys; nothing is
            ever filled in with initial values.
    """
    if isinstance(source, Mapping):
        # states may hold other objects, such as Megatron's _extra_state
        shapes = {name: tuple(t.shape) for name, t in source.items() if isinstance(t, Tensor)}
        form = format_of(format) if format else detect(shapes)
        return formats.from_tensors(form, shapes, source)
    files, single = place(source)
    if single and (single.endswith(".gguf") or format == "gguf"):
        return read_gguf(Path(source).expanduser())
    tensors = tensor_map(files, single)
    shapes = {name: entry.shape for name, entry in tensors.items()}
    form = format_of(format) if format else None
    try:
        form = form or detect(shapes)
        keys = [key for layers in keys_of(form, shapes).values() for key in layers.values()]
    except DataError:
        named = activations(read_json(files, "config.json") or {})
        ours = next((name for name in named if name.startswith(PREFIX)), None)
        if ours is None:
            raise
        raise DataError(
            f"{source} holds parameters of {shown(ours)}, and only xIELU's in a published format "
            f"are read here; `integrand inspect {source}` shows them, and from_pretrained loads "
            "the model"
        ) from None
    return formats.from_tensors(form, shapes, tensors.tensors(keys))


def to_tensors(
    parameters: XieluParameters, format: str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors of a format by key, to be merged with the other weights of a checkpoint.

    Args:
        format: a name in `FORMATS`.
        dtype: of the raw parameters; None keeps what was stored: bf16 in, bf16 out, the same bits
            wherever the parametrisation is the same.

    Raises:
        DataError: the format has no place for a value.
    """
    return formats.to_tensors(parameters, format_of(format), dtype)


def write_parameters(
    parameters: XieluParameters,
    path: str | Path,
    format: str = "transformers",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a file that holds the activation's parameters alone: safetensors, or GGUF metadata.

    Args:
        path: `.safetensors`, or `.gguf` (whatever the format says).
        format, dtype: as in `to_tensors`.

    Raises:
        DataError: the format has no place for a value, or the suffix is neither.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return write_gguf(parameters, path, dtype)
    if path.suffix != ".safetensors":
        raise DataError(f"a path must end in .safetensors or .gguf, got '{path}'")
    from safetensors.torch import save_file

    save_file(to_tensors(parameters, format, dtype), path, metadata={"format": "pt"})
    return None
