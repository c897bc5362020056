"""`inspect_checkpoint`: the activations' parameters of a checkpoint, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from integrand.activation import Activation, derive
from integrand.models import extremes
from integrand.models.checkpoints.gguf import read_gguf
from integrand.models.checkpoints.places import place
from integrand.models.checkpoints.ranges import read_json, tensor_map
from integrand.models.sites import Layer, declared, published, sites, xielu

_MOST_LISTED = 256


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds of one activation.

    Attributes:
        source: the path or hub id.
        format: of xIELU's parameters, or "integrand" where the config carries the declaration.
        layers: in order of depth.
        read_bytes, total_bytes: how much was read, of how much; 0 where the reader does not count.
        notes: sentences about the whole.
    """

    source: str
    format: str
    activation: Activation
    layers: tuple[Layer, ...]
    read_bytes: int
    total_bytes: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kind": "inspect",
            "source": self.source,
            "activation": self.activation.name,
            "formula": self.activation.formula,
            "format": self.format,
            "read_bytes": self.read_bytes,
            "total_bytes": self.total_bytes,
            "layers": [
                {
                    "layer": depth,
                    "module": layer.module,
                    "dtype": str(next(iter(layer.raw.values())).dtype).removeprefix("torch."),
                    "raw": {n: _plain(t) for n, t in layer.raw.items()},
                    "values": {n: _plain(t) for n, t in layer.values.items()},
                    "step": {n: extremes.step(t) for n, t in layer.raw.items()},
                    "fp16_reach": None if math.isinf(layer.fp16_reach) else layer.fp16_reach,
                    "flags": [{"parameter": p, "rule": r} for p, r in layer.flags],
                }
                for depth, layer in enumerate(self.layers)
            ],
            "rules": extremes.RULES,
            "notes": list(self.notes),
        }


def inspect_checkpoint(where: str | Path) -> Inspection:
    """Read the activations' parameters of a checkpoint, and nothing else of it.

    Args:
        where: a safetensors or GGUF file, a folder (sharded or not), or a hub id such as
            `ORG/NAME@REVISION`, which is read by range requests.

    Raises:
        DataError: not a checkpoint, not reachable, damaged, or without activation parameters.
    """
    files, single = place(where)
    if single and single.endswith(".gguf"):
        parameters = read_gguf(Path(where).expanduser())
        names = [f"xielu.*[{n}]" for n in range(len(parameters.raw))]
        return _judged(str(where), "gguf", *xielu(parameters, names), 0, 0)
    config = read_json(files, "config.json") or {}
    tensors = tensor_map(files, single)
    spec = declared(files, config)
    if spec is not None:
        form, found = "integrand", (derive(spec), list(sites(tensors, spec)))
    else:
        form, found = published(tensors, config)
    shards = {entry.shard for entry in tensors.values()}
    total = sum(files.size(shard) or 0 for shard in shards)
    return _judged(str(where), form, *found, files.bytes_read, total)


def _judged(
    source: str, form: str, act: Activation, layers: list[Layer], read: int, total: int
) -> Inspection:
    flags: list[list[tuple[str, str]]] = [[] for _ in layers]
    for name in layers[0].values:
        for pick in (torch.min, torch.max):
            for flag, is_far in zip(
                flags, extremes.far([pick(la.values[name]).item() for la in layers]), strict=True
            ):
                if is_far and (name, "far") not in flag:
                    flag.append((name, "far"))
    for flag, layer in zip(flags, layers, strict=True):
        if layer.fp16_reach < extremes.REACH:
            flag.append(("", "overflow"))
        flag += [
            (name, "coarse")
            for name, raw in layer.raw.items()
            if extremes.step(raw) / 2 > extremes.LARGE_UPDATE
        ]
    judged = tuple(replace(la, flags=tuple(flag)) for la, flag in zip(layers, flags, strict=True))
    return Inspection(source, form, act, judged, read, total, tuple(_notes(form, judged)))


def _notes(form: str, layers: tuple[Layer, ...]) -> Iterator[str]:
    stuck = sum(
        any(extremes.step(t) / 2 > extremes.UPDATE for t in la.raw.values()) for la in layers
    )
    if stuck:
        yield (
            f"In {stuck} of {len(layers)} layers a usual update of {extremes.UPDATE:g}, about one "
            "step of Adam at that learning rate, is rounded away by the stored type: fine-tune "
            "with fp32 raw parameters, which integrand's modules keep."
        )
    # under |a| a stored number is a value, but for its sign
    softplus = form != "integrand" and "beta" not in layers[0].raw
    if softplus and all(
        bool(
            (la.raw["alpha_p"].double() > 0).all()
            and (la.raw["alpha_n"].double() > la.values["beta"]).all()
        )
        for la in layers
    ):
        yield (
            "Every stored number could itself be a value (alpha_p > 0, alpha_n > beta); by its "
            f"format, {form}, it is raw, and the values are those after softplus."
        )


def _plain(tensor: Tensor) -> float | list[float] | dict[str, float]:
    """One number, one per expert, or what many channels lie between."""
    flat = tensor.double().flatten()
    if flat.numel() == 1:
        return flat.item()
    if flat.numel() <= _MOST_LISTED:
        return flat.tolist()
    return {
        "count": flat.numel(), "min": flat.min().item(), "median": flat.median().item(),
        "max": flat.max().item(),
    }  # fmt: skip
