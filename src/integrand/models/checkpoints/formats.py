"""Checkpoint formats as data: where xIELU's raw parameters lie, in which shape, under which
parametrisation.

transformers (Apertus): `model.layers.N.mlp.act_fn.{alpha_p,alpha_n}` of shape (1,), buffers
`beta`, `eps` of shape (). Megatron (swiss-ai/Megatron-LM): `decoder.layers.N.mlp.activation_func.
{alpha_p,alpha_n}` of shape (1,) in a module's state; its distributed checkpoints hold all layers
in one tensor without N, of shape (L, 1), and before 2025-03-17 of shape (L,); beta and eps are
constants of the code. Later forks keep |alpha| and train `beta`, all of shape (1,), or (E,) where a
grouped block has one per expert.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from integrand.errors import DataError
from integrand.models.checkpoints.parameters import ALPHAS, BETA, EPS, XieluParameters, check_kinds
from integrand.models.checkpoints.ranges import shown

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Format:
    """One layout of raw parameters.

    Args:
        key: of one tensor, with {layer} and {field}; without {layer} it holds all layers.
        stored: the fields that are stored; absent constants are those of the published code.
        optional: constants that some writers leave out.
        shape: of one tensor by name of the case, "L" for the number of layers, "E" any length.
    """

    name: str
    key: str
    parametrisation: str
    stored: tuple[str, ...]
    shape: tuple[str | int, ...]
    optional: tuple[str, ...] = ()
    holder: str = ""

    @property
    def stacked(self) -> bool:
        """Whether one tensor holds all layers."""
        return "{layer}" not in self.key

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches a key: groups `prefix`, `field`, and `layer` where there is one."""
        text = re.escape(self.key).replace(re.escape("{layer}"), r"(?P<layer>\d+)")
        text = text.replace(re.escape("{field}"), r"(?P<field>\w+)")
        return re.compile(rf"(?P<prefix>(?:[\w.]+\.)??){text}")


_MEGATRON = "decoder.layers.{layer}.mlp.activation_func.{field}"
_STACKED = "decoder.layers.mlp.activation_func.{field}"
FORMATS = {
    f.name: f
    for f in (
        Format("transformers", "layers.{layer}.mlp.act_fn.{field}", "softplus",
               (*ALPHAS, "beta", "eps"), (1,), optional=("beta", "eps"), holder="model."),
        Format("megatron", _MEGATRON, "softplus", ALPHAS, (1,)),
        Format("megatron-stacked", _STACKED, "softplus", ALPHAS, ("L", 1)),
        Format("megatron-stacked-2025-03", _STACKED, "softplus", ALPHAS, ("L",)),
        Format("megatron-abs", _MEGATRON, "abs", (*ALPHAS, "beta"), ("E",)),
        Format("megatron-abs-experts", _MEGATRON.replace("mlp.", "mlp.experts."), "abs",
               (*ALPHAS, "beta"), ("E",)),
    )
}  # fmt: skip


def format_of(name: str) -> Format:
    """The format of a name. Raises `DataError` with the known ones."""
    if name not in FORMATS:
        raise DataError(
            f"a format of named tensors is one of {', '.join(FORMATS)}, got '{name}'; "
            "GGUF is read from and written to a .gguf file"
        )
    return FORMATS[name]


def detect(shapes: Shapes) -> Format:
    """The format of a checkpoint, from the names and shapes of its tensors.

    Raises:
        DataError: no format's keys occur.
    """
    for form in FORMATS.values():
        fields = {m["field"] for m in map(form.pattern.fullmatch, shapes) if m}
        if not fields & {*form.stored}:
            continue
        # the same keys in two parametrisations: only the later one stores beta
        if form.name == "megatron" and "beta" in fields:
            continue
        ranks = {len(s) for n, s in shapes.items() if form.pattern.fullmatch(n)}
        if form.stacked and ranks != {len(form.shape)}:
            continue
        return form
    keys = [f"{f.holder}{f.key}".format(layer="N", field="alpha_p") for f in FORMATS.values()]
    # two formats may differ in shapes alone
    known = ", ".join(dict.fromkeys(keys))
    raise DataError(f"no xIELU parameters are stored under any known key ({known})")


def keys_of(form: Format, shapes: Shapes) -> dict[str, dict[int, str]]:
    """field -> layer -> key; a stacked tensor is layer 0. Everything that could be wrong with
    names and shapes is found here, before a tensor is read.

    Raises:
        DataError: naming the missing, unknown or misshapen keys.
    """
    found: dict[str, dict[int, str]] = {}
    prefixes = set()
    for key in shapes:
        if match := form.pattern.fullmatch(key):
            layer = 0 if form.stacked else _number(match["layer"])
            found.setdefault(match["field"], {})[layer] = key
            prefixes.add(match["prefix"])
    if len(prefixes) > 1:
        raise DataError(
            f"one stack of layers is read at a time, got those under {sorted(prefixes)}; pass the "
            "tensors of one of them"
        )
    if not found:
        raise DataError(f"no key is like {form.key.format(layer='N', field='alpha_p')}")
    prefix = prefixes.pop()
    _check_names(form, prefix, found, _layers(form, prefix, shapes))
    _check_shapes(form, found, shapes, _stacked_layers(prefix, shapes))
    return found


def _number(text: str) -> int:
    """A layer's number; 00 would be a second layer 0, and no model has a million layers."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,5}", text):
        raise DataError(
            "layers must be numbered 0, 1, 2, … in at most six digits without leading zeros, got "
            f"{shown(text)}; rename the tensors"
        )
    return int(text)


def _layers(form: Format, prefix: str, shapes: Shapes) -> range:
    """Every layer that any tensor of the stack belongs to."""
    if form.stacked:
        return range(1)
    stack = re.compile(re.escape(prefix + form.key.split("{layer}")[0]) + r"(\d+)\.")
    known = {_number(m[1]) for m in map(stack.match, shapes) if m}
    return range(max(known) + 1)


def _check_names(
    form: Format, prefix: str, found: Mapping[str, Mapping[int, str]], layers: range
) -> None:
    if unknown := sorted(set(found) - set(form.stored)):
        key = next(iter(found[unknown[0]].values()))
        raise DataError(
            f"format '{form.name}' stores {', '.join(form.stored)}, got '{key}'; name the format "
            "that this checkpoint has"
        )
    # a layer without any activation parameter is as wrong as one without half of them
    needed = [f for f in form.stored if f in found or f not in form.optional]
    lost = sum(len(layers) - len(found.get(field, {})) for field in needed)
    if lost:
        # a hostile number may ask for a million layers: no more are made than are named
        named = (
            prefix + form.key.format(layer=layer, field=field)
            for layer in layers
            for field in needed
            if layer not in found.get(field, {})
        )
        more = f" and {lost - 4} more" if lost > 4 else ""
        raise DataError(
            f"format '{form.name}' needs every activation parameter of {len(layers)} layers, and "
            f"these are missing: {', '.join(islice(named, 4))}{more}; take them from the "
            "checkpoint that was converted: initial values would give another model"
        )


def _stacked_layers(prefix: str, shapes: Shapes) -> set[int]:
    """The first dimension of the stack's other tensors in a distributed checkpoint."""
    stack = re.compile(re.escape(prefix) + r"decoder\.layers\.[a-z]\w*\..*weight")
    return {s[0] for n, s in shapes.items() if s and stack.fullmatch(n)}


def _check_shapes(
    form: Format,
    found: Mapping[str, Mapping[int, str]],
    shapes: Shapes,
    layers: Collection[int],
) -> None:
    expected = ", ".join(map(str, form.shape)) + ("," if len(form.shape) == 1 else "")
    lengths = set()
    for field in form.stored:
        for key in found.get(field, {}).values():
            shape = shapes[key]
            scalar = field in form.optional and shape == ()
            fits = len(shape) == len(form.shape) and all(
                have == want if isinstance(want, int) else have > 0
                for have, want in zip(shape, form.shape, strict=True)
            )
            if not (fits or scalar):
                raise DataError(f"'{key}' must have shape ({expected}), got {shape}")
            lengths.update(shape[:1])
    if form.stacked and (len(lengths) > 1 or (layers and set(layers) != lengths)):
        raise DataError(
            f"the tensors of all layers must have one length, got {sorted(lengths)} for the "
            f"activation and {sorted(layers)} for the other weights of the stack"
        )


def from_tensors(form: Format, shapes: Shapes, tensors: Mapping[str, Tensor]) -> XieluParameters:
    """Raw parameters from the tensors that `keys_of` names."""
    keys = keys_of(form, shapes)
    columns = {field: [tensors[k] for _, k in sorted(keys[field].items())] for field in keys}
    if form.stacked:
        columns = {field: [row.reshape(1) for row in whole] for field, (whole,) in columns.items()}
    dtype = columns["alpha_p"][0].dtype
    for field, constant in (("beta", BETA), ("eps", EPS)):
        if field not in columns:
            alone = torch.tensor(constant, dtype=dtype)
            columns[field] = [alone] * len(columns["alpha_p"])
    layers = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    parameters = XieluParameters(tuple(layers), form.parametrisation)
    check(parameters)
    return parameters


def to_tensors(
    parameters: XieluParameters, form: Format, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors that a checkpoint of this format holds for xIELU, by key.

    Raises:
        DataError: the format has no place for a value: another beta, or one alpha per expert.
    """
    made = parameters.stored_as(form.parametrisation, dtype)
    out: dict[str, Tensor] = {}
    for layer, raw in enumerate(made.raw):
        _check_constants(form, made, layer)
        for field in form.stored:
            tensor = raw[field]
            if form.shape != ("E",) and tensor.numel() != 1:
                raise DataError(
                    f"format '{form.name}' holds one {field} per layer, got {tensor.numel()} in "
                    f"layer {layer}; keep a format with one per expert"
                )
            key = form.holder + form.key.format(layer=layer, field=field)
            out[key] = tensor.reshape(() if field in form.optional else -1).clone()
    if not form.stacked:
        return out
    columns = {f: torch.cat([raw[f].reshape(1) for raw in made.raw]) for f in form.stored}
    return {
        form.key.format(field=f): c.unsqueeze(1) if len(form.shape) == 2 else c
        for f, c in columns.items()
    }


def _check_constants(form: Format, made: XieluParameters, layer: int) -> None:
    # half types round eps by up to 1.4 %; 0.5 they hold exactly
    for field, constant, slack in (("beta", BETA, 0.0), ("eps", EPS, 0.05)):
        held = made.raw[layer][field].double()
        if field not in form.stored and bool(((held / constant - 1).abs() > slack).any()):
            raise DataError(
                f"format '{form.name}' has no place for {field}: its code takes {constant:g}, got "
                f"{held.tolist()} in layer {layer}; write a format that stores it"
            )


def check(parameters: XieluParameters) -> None:
    """Raise `DataError` where stored numbers cannot be raw parameters of their parametrisation.

    Any finite number is a possible raw parameter, so that values which were stored in place of
    raw parameters show only where they are the initial ones in every layer.
    """
    check_kinds(parameters.raw)
    for layer, raw in enumerate(parameters.raw):
        for name, tensor in raw.items():
            if not bool(torch.isfinite(tensor.double()).all()):
                raise DataError(
                    f"{name} of layer {layer} must be finite, got {tensor.flatten().tolist()[:4]}"
                )
        if parameters.parametrisation == "softplus" and bool((raw["beta"].double() < 0).any()):
            raise DataError(
                f"beta of layer {layer} must not be negative beside softplus, got "
                f"{raw['beta'].flatten().tolist()[:4]}; a trained beta of any sign has a format of "
                "the abs parametrisation"
            )
    if parameters.parametrisation == "softplus" and _all_equal(parameters.raw, 0.8):
        raise DataError(
            "alpha_p = alpha_n = 0.8 in every layer are xIELU's initial VALUES, where raw "
            "parameters belong (0.2034 and -1.0502); if they are meant as values, use "
            "XieluParameters.from_values"
        )


def _all_equal(raw: Iterable[Mapping[str, Any]], number: float) -> bool:
    return all(
        # in fp64, since fp8 numbers have no comparison
        bool((layer[name].double() == torch.tensor(number, dtype=layer[name].dtype).double()).all())
        for layer in raw
        for name in ALPHAS
    )
