"""The trained function of a layer, as a person writes it and as a spec."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from integrand.errors import SpecError
from integrand.nn.shards import distributed
from integrand.spec import Param, Spec, to_toml
from integrand.spec.spec import Bound


class Formula(NamedTuple):
    """A trained function.

    Attributes:
        text: f with its numbers, `1.7*x**2 + 0.5*x if x > 0 else ...`; each is the shortest decimal
            that is the fp32 (fp64) value.
        spec: the declaration with the trained values as initial ones. A value that rounding put on
            an open bound (softplus of a very negative raw parameter is 0) is a constant there.
        toml: `spec` as `read_spec` reads it.
    """

    text: str
    spec: Spec
    toml: str

    def __str__(self) -> str:
        return self.text


def trained(
    spec: Spec, formula: str, values: Mapping[str, Tensor], channel: int | None = None
) -> Formula:
    """The `Formula` of parameter values by name; `formula` is f in the parameters' names."""
    numbers = {name: _number(spec, value, channel) for name, value in values.items()}
    params = {
        name: dataclasses.replace(p, init=float(numbers[name])) for name, p in spec.params.items()
    }
    for name, p in params.items():
        if _outside(p.init, p.above, params) or _outside(p.below, p.init, params):
            params[name] = dataclasses.replace(p, above=None, below=None, trainable=False)
    found = dataclasses.replace(spec, params=params)
    return Formula(_substituted(formula, numbers), found, to_toml(found))


def _outside(upper: Bound, lower: Bound, params: Mapping[str, Param]) -> bool:
    """Whether upper > lower fails, for numbers, names of parameters, or no bound."""
    high, low = (params[b].init if isinstance(b, str) else b for b in (upper, lower))
    return high is not None and low is not None and not high > low


def _number(spec: Spec, value: Tensor, channel: int | None) -> np.floating:
    """One parameter's value as numpy's scalar, which prints the shortest decimal."""
    whole: Any = value.full_tensor() if distributed(value) else value
    flat = whole.detach().cpu().reshape(-1)
    if len(flat) > 1 and channel is None:
        raise SpecError(
            f"'{spec.name}' has {len(flat)} functions, one per set of parameters: name one of them"
            f" with channel=0 ... channel={len(flat) - 1}"
        )
    index = channel if channel is not None and len(flat) > 1 else 0
    if not 0 <= index < len(flat):
        raise SpecError(f"channel must lie in 0 ... {len(flat) - 1}, got {channel}")
    wide = flat[index].double() if flat.dtype == torch.float64 else flat[index].float()
    return wide.numpy()[()]


def _substituted(formula: str, numbers: Mapping[str, np.floating]) -> str:
    def number(match: re.Match[str]) -> str:
        if match[0] not in numbers:
            return match[0]
        text = str(numbers[match[0]]).removesuffix(".0")
        return f"({text})" if text.startswith("-") else text

    # a word in the formula is a parameter, a function or x; 1e-06 must not lose its e
    return re.sub(r"(?<![\w.])[A-Za-z_]\w*", number, formula)
