"""Where a checkpoint holds activation parameters, and of which activation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from integrand.activation import Activation, derive
from integrand.errors import DataError
from integrand.models import extremes
from integrand.models.checkpoints import formats
from integrand.models.checkpoints.configs import activations, fields
from integrand.models.checkpoints.parameters import ALPHAS, XieluParameters
from integrand.models.checkpoints.ranges import Files, TensorMap, read_json, shown
from integrand.models.registered import FIELD, PREFIX
from integrand.nn.constraints import constrained
from integrand.spec import Spec, from_toml, row

# a training run keeps its activation's declaration there
RUN = "run.json"


@dataclass(frozen=True)
class Layer:
    """One activation of a checkpoint: raw parameters as stored, their values in fp64, and why it
    is extreme."""

    module: str
    raw: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    fp16_reach: float
    flags: tuple[tuple[str, str], ...] = ()  # (parameter or "", rule)


def published(
    tensors: TensorMap, config: Mapping[str, Any]
) -> tuple[str, tuple[Activation, list[Layer]]]:
    """xIELU by the keys that published checkpoints have: the format, and what it holds."""
    shapes = {name: entry.shape for name, entry in tensors.items()}
    try:
        form = formats.detect(shapes)
    except DataError as error:
        named = activations(config)
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
    return form.name, xielu(parameters, places)


def xielu(parameters: XieluParameters, places: list[str]) -> tuple[Activation, list[Layer]]:
    """The activation and its layers, of parameters read by a bridge."""
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


def declared(files: Files, config: Mapping[str, Any]) -> Spec | None:
    """The spec that travels with a checkpoint: in its config, or in the run that trained it."""
    if (spec := _named(config)) is not None:
        return spec
    text = (read_json(files, RUN) or {}).get("activation")
    return from_toml(text, f"the activation in {RUN}") if isinstance(text, str) else None


def _named(config: Mapping[str, Any]) -> Spec | None:
    """The spec that the config's `hidden_act` names, from the declaration it carries."""
    # an empty table declares nothing
    tables = [t for t in fields(config, FIELD) if isinstance(t, dict) and t]
    named = [a for a in activations(config) if a.startswith(PREFIX)]
    if not named and not tables:
        return None
    name = named[0].removeprefix(PREFIX) if named else next(iter(tables[0]))
    for table in tables:
        if isinstance(text := table.get(name), str):
            return from_toml(text, f"{shown(name)} in the model's config")
    return row(name).spec


def sites(tensors: TensorMap, spec: Spec) -> Iterator[Layer]:
    """Every module that stores the spec's parameters, in order of depth."""
    trainable = [n for n, p in spec.params.items() if p.trainable]
    if not trainable:
        raise DataError(f"'{spec.name}' has no trainable parameters: there is nothing to inspect")
    modules = _modules(tensors, trainable)
    lost = [f"{m}.{n}" for m in modules for n in trainable if f"{m}.{n}" not in tensors]
    if lost or not modules:
        names = ", ".join(lost[:4]) or f"{', '.join(trainable)} of every layer"
        raise DataError(f"the checkpoint declares '{spec.name}', and lacks {names}")
    act = derive(spec)
    whole = {n: torch.tensor([float(p.init)]) for n, p in spec.params.items()}
    read = tensors.tensors(k for m in modules for n in whole if (k := f"{m}.{n}") in tensors)
    for module in modules:
        stored = {n: read[k] for n in whole if (k := f"{module}.{n}") in read}
        for name, tensor in stored.items():
            if not bool(torch.isfinite(tensor.double()).all()):
                got = tensor.flatten().tolist()[:4]
                raise DataError(f"'{module}.{name}' must be finite, got {got}")
        if len(shapes := {tuple(t.shape) for t in stored.values() if t.numel() > 1}) > 1:
            raise DataError(
                f"the parameters of '{module}' must have one shape, got {sorted(shapes)}"
            )
        values = constrained(spec.params, {n: t.double() for n, t in {**whole, **stored}.items()})
        yield Layer(module, {n: stored[n] for n in trainable}, values, _reach(act, values))


def _modules(tensors: TensorMap, names: list[str]) -> list[str]:
    """Modules that store all of these names, and those that ought to: in the same place of another
    layer."""
    held = {key.rpartition(".")[0] for key in tensors}
    whole = [m for m in held if all(f"{m}.{n}" in tensors for n in names)]
    places: dict[str, set[str]] = {}
    for module in whole:
        parent, _, last = module.rpartition(".")
        places.setdefault(_kind(parent), set()).add(last)
    # the parents of every tensor, at the heights where such modules lie
    heights = {kind.count(".") + 1 for kind in places if kind}
    parents = {
        ".".join(p[:i]) for p in (key.split(".") for key in tensors) for i in heights if i < len(p)
    }
    alike = {f"{parent}.{last}" for parent in parents for last in places.get(_kind(parent), ())}
    return sorted({*whole, *alike}, key=_depth)


def _kind(module: str) -> str:
    return re.sub(r"\d+", "N", module)


def _depth(module: str) -> list[tuple[int, str]]:
    # split keeps text at even places and numbers at odd ones, so that like meets like; numbers
    # are ordered by length and digits, since int() refuses thousands of them
    parts = enumerate(re.split(r"(\d+)", module))
    return [(len(n), n) if i % 2 and (n := p.lstrip("0")) else (0, p) for i, p in parts]


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
