"""The declared text as plain torch operations: what a user would write, with its cancellations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from integrand.spec import Spec, evaluate, parse

_NAMED: dict[str, Callable[..., Any]] = {
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "relu": F.relu,
    "ndtr": torch.special.ndtr,
    "min": torch.minimum,
    "max": torch.maximum,
    "logcosh": lambda x: torch.log(torch.cosh(x)),
    "expm1mx": lambda x: torch.expm1(x) - x,
    "xmlog1p": lambda x: x - torch.log1p(x),
    "xmatan": lambda x: x - torch.atan(x),
    "softplus0": lambda x: F.softplus(x) - math.log(2),
}


class _Operations:
    num, pi = float, math.pi
    # builtins bind no instance
    neg, add, sub = operator.neg, operator.add, operator.sub
    mul, div, pow = operator.mul, operator.truediv, operator.pow

    @staticmethod
    def call(name: str, *args: Any) -> Any:
        like = next((a for a in args if isinstance(a, Tensor)), None)
        # a number alone is a constant of the text: fp32 without dimensions takes part in any type
        kind = torch.get_default_dtype() if like is None else like.dtype
        operands = [a if isinstance(a, Tensor) else torch.tensor(a, dtype=kind) for a in args]
        return (_NAMED.get(name) or getattr(torch, name))(*operands)

    @staticmethod
    def select(op: str, x: Any, bound: Any, then: Any, otherwise: Any) -> Any:
        return torch.where(getattr(operator, op)(x, bound), then(), otherwise())


def naive(spec: Spec) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor] | None:
    """f of x and parameter values by the text of a declared function; None for a gradient."""
    if spec.function is None:
        return None
    node, operations = parse(spec.function, spec.params), _Operations()

    def formula(x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return evaluate(node, operations, x, {k: v.to(x.dtype) for k, v in params.items()})

    return formula
