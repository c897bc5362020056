"""Raw unconstrained parameters <-> constrained values.

Bounded on one side: bound +- softplus(raw). On both: low + (high - low) sigmoid(raw). Unbounded:
raw itself. For xIELU this is alpha_p = softplus(raw), alpha_n = beta + softplus(raw)
(arXiv:2411.13010).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from integrand.errors import SpecError
from integrand.spec import Param, dependency_order


def inverse_softplus(y: float) -> float:
    """raw with log(1 + exp(raw)) = y, for every y > 0 without overflow or cancellation."""
    return y + math.log(-math.expm1(-y)) if y > 1e-300 else math.log(y)


def to_raw(name: str, value: float, low: float | None, high: float | None) -> float:
    """The raw parameter of a value between its bounds."""
    if (low is not None and not value > low) or (high is not None and not value < high):
        raise SpecError(f"'{name}' must lie between {low} and {high}, got {value}")
    if low is not None and high is not None:
        return math.log(value - low) - math.log(high - value)
    if low is not None:
        return inverse_softplus(value - low)
    if high is not None:
        return inverse_softplus(high - value)
    return value


def to_value(raw: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Tensor:
    """The constrained value of a raw parameter."""
    if low is not None and high is not None:
        return low + (high - low) * torch.sigmoid(raw)
    if low is not None:
        return low + F.softplus(raw)
    if high is not None:
        return high - F.softplus(raw)
    return raw


def raw_values(params: Mapping[str, Param], values: Mapping[str, float]) -> dict[str, float]:
    """Raw parameters of the trainable ones, for given values of all."""
    bound = {
        name: tuple(values[b] if isinstance(b, str) else b for b in (p.above, p.below))
        for name, p in params.items()
    }
    return {n: to_raw(n, values[n], *bound[n]) for n, p in params.items() if p.trainable}


def constrained(params: Mapping[str, Param], raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of all parameters from raw trainable ones and plain constants, in declared order."""
    values: dict[str, Tensor] = {}
    for name in dependency_order(params):
        p = params[name]
        if not p.trainable:
            values[name] = raw[name]
            continue
        low, high = (values[b] if isinstance(b, str) else b for b in (p.above, p.below))
        values[name] = to_value(raw[name], low, high)
    return {name: values[name] for name in params}
