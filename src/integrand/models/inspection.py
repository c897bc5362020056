"""`inspect_checkpoint`: the activations' parameters of a checkpoint, layer by layer."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from integrand.activation import Activation, derive
from integrand.errors import DataError, SpecError
from integrand.models import extremes
from integrand.models.checkpoints import formats
from integrand.models.checkpoints.gguf import read_gguf
from integrand.models.checkpoints.parameters import ALPHAS, XieluParameters
from integrand.models.checkpoints.places import place
from integrand.models.checkpoints.ranges import TensorMap, read_json, tensor_map
from integrand.nn.constraints import constrained
from integrand.spec import Spec, row, spec_from_mapping

PREFIX, FIELD = "integrand/", "integrand"  # in a config: hidden_act, and name -> TOML
_MOST_LISTED = 256


@dataclass(frozen=True)
class Layer:
    """One activation of a checkpoint: raw parameters as stored, their values in fp64, and why it
    is extreme."""

    module: str
    raw: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    fp16_reach: float
    flags: tuple[tuple[str, str], ...] = ()  # (parameter or "", rule)


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
        return _judged(str(where), "gguf", *_xielu(parameters, names), 0, 0)
    config = read_json(files, "config.json") or {}
    tensors = tensor_map(files, single)
    spec = _declared(config)
    if spec is not None:
        form, found = "integrand", (derive(spec), list(_sites(tensors, spec)))
    else:
        form, found = _published(tensors, config)
    shards = {entry.shard for entry in tensors.values()}
    total = sum(files.size(shard) or 0 for shard in shards)
    return _judged(str(where), form, *found, files.bytes_read, total)


def _published(
    tensors: TensorMap, config: Mapping[str, Any]
) -> tuple[str, tuple[Activation, list[Layer]]]:
    shapes = {name: entry.shape for name, entry in tensors.items()}
    try:
        form = formats.detect(shapes)
    except DataError as error:
        named = _strings(config, "hidden_act", "hidden_activation", "activation_function")
        known = f", and its config names {', '.join(map(repr, named))}" if named else ""
        raise DataError(
            f"this checkpoint of {len(tensors)} tensors has no activation parameters that are "
            f"known{known}: {error}"
        ) from None
    keys = formats.keys_of(form, shapes)
    read = tensors.tensors([key for layers in keys.values() for key in layers.values()])
    parameters = formats.from_tensors(form, shapes, read)
    places = [key.rpartition(".")[0] for _, key in sorted(keys["alpha_p"].items())]
    if form.stacked:
        places = [f"{places[0]}[{n}]" for n in range(len(parameters.raw))]
    return form.name, _xielu(parameters, places)


def _xielu(parameters: XieluParameters, places: list[str]) -> tuple[Activation, list[Layer]]:
    act = derive(row("xielu").spec)
    stored = (*ALPHAS, "beta") if parameters.parametrisation == "abs" else ALPHAS
    layers = [
        Layer(
            module,
            {name: raw[name] for name in stored},
            {name: values[name] for name in (*ALPHAS, "beta")},
            _reach(act, {name: values[name] for name in act.spec.params}),
        )
        for module, raw, values in zip(places, parameters.raw, parameters.values(), strict=True)
    ]
    return act, layers


def _declared(config: Mapping[str, Any]) -> Spec | None:
    """The spec that the config's `hidden_act` names, from the declaration it carries."""
    tables = [t for t in _fields(config, FIELD) if isinstance(t, dict)]
    named = [a for a in _strings(config) if a.startswith(PREFIX)]
    if not named and not tables:
        return None
    name = named[0].removeprefix(PREFIX) if named else next(iter(tables[0]), "")
    for table in tables:
        if isinstance(text := table.get(name), str):
            try:
                return spec_from_mapping(tomllib.loads(text))
            except tomllib.TOMLDecodeError as error:
                raise SpecError(f"'{name}' in the model's config is not TOML: {error}") from None
    return row(name).spec


def _fields(config: Mapping[str, Any], *names: str) -> Iterator[Any]:
    """The entries of these names, those of nested configs too (text_config and the like)."""
    for key, value in config.items():
        if key in names:
            yield value
        elif isinstance(value, dict) and key.endswith("_config"):
            yield from _fields(value, *names)


def _strings(config: Mapping[str, Any], *names: str) -> list[str]:
    """Distinct texts among the entries of these names, or among all entries."""
    chosen = names or tuple(_keys(config))
    return list(dict.fromkeys(v for v in _fields(config, *chosen) if isinstance(v, str)))


def _keys(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            yield from _keys(value)
        else:
            yield key


def _sites(tensors: TensorMap, spec: Spec) -> Iterator[Layer]:
    """Every module that stores the spec's parameters, in order of depth."""
    trainable = [n for n, p in spec.params.items() if p.trainable]
    if not trainable:
        raise DataError(f"'{spec.name}' has no trainable parameters: there is nothing to inspect")
    held: dict[str, set[str]] = {}
    for key in tensors:
        module, _, field = key.rpartition(".")
        if field in spec.params:
            held.setdefault(module, set()).add(field)
    # a module that has them all shows what the others of its kind are called
    kinds = {_kind(module) for module, fields in held.items() if fields >= set(trainable)}
    modules = sorted((m for m in held if _kind(m) in kinds), key=_depth)
    lost = [f"{m}.{n}" for m in modules for n in trainable if n not in held[m]]
    if lost or not modules:
        names = ", ".join(lost[:4]) or f"{', '.join(trainable)} of every layer"
        raise DataError(f"the config declares '{spec.name}', and its checkpoint lacks {names}")
    act = derive(spec)
    read = tensors.tensors([f"{m}.{n}" for m in modules for n in spec.params if n in held[m]])
    for module in modules:
        stored = {n: read[f"{module}.{n}"] for n in spec.params if n in held[module]}
        for name, tensor in stored.items():
            if not bool(torch.isfinite(tensor).all()):
                raise DataError(f"'{module}.{name}' must be finite, got {_plain(tensor)}")
        whole = {n: torch.tensor([float(p.init)]) for n, p in spec.params.items()}
        wide = {n: t.double() for n, t in {**whole, **stored}.items()}
        values = constrained(spec.params, wide)
        raw = {n: t for n, t in stored.items() if n in trainable}
        yield Layer(module, raw, values, _reach(act, values))


def _kind(module: str) -> str:
    return re.sub(r"\d+", "N", module)


def _depth(module: str) -> list[int | str]:
    # split keeps text at even places and numbers at odd ones, so that like meets like
    return [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", module))]


def _reach(act: Activation, values: Mapping[str, Tensor]) -> float:
    return min(extremes.fp16_reach(act, one) for one in telling(values))


def telling(values: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """The parameter values of one site, or of those channels or experts that hold the smallest,
    the median or the largest value of a parameter."""
    shapes = [t.shape for t in values.values()]
    flat = {n: t.expand(torch.broadcast_shapes(*shapes)).flatten() for n, t in values.items()}
    count = next(iter(flat.values())).numel()
    chosen = dict.fromkeys(int(t.argsort()[i]) for t in flat.values() for i in (count // 2, 0, -1))
    return [{n: t[i].item() for n, t in flat.items()} for i in chosen]


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
    judged = tuple(
        Layer(la.module, la.raw, la.values, la.fp16_reach, tuple(flag))
        for la, flag in zip(layers, flags, strict=True)
    )
    return Inspection(source, form, act, judged, read, total, tuple(_notes(form, act, judged)))


def _notes(form: str, act: Activation, layers: tuple[Layer, ...]) -> Iterator[str]:
    stuck = sum(
        any(extremes.step(t) / 2 > extremes.UPDATE for t in la.raw.values()) for la in layers
    )
    if stuck:
        yield (
            f"In {stuck} of {len(layers)} layers a usual update of {extremes.UPDATE:g}, about one "
            "step of Adam at that learning rate, is rounded away by the stored type: fine-tune "
            "with fp32 raw parameters, which integrand's modules keep."
        )
    values = {"alpha_p": 0.0, "alpha_n": 0.5}
    if form != "integrand" and all(
        bool((la.raw[n] > low).all())
        for la in layers
        for n, low in (values if "beta" not in la.raw else {}).items()
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
