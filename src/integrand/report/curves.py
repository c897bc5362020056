"""f and f' of an activation as points of a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def curves(
    act: Any,
    low: float = -4.0,
    high: float = 2.0,
    points: int = 241,
    values: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """`x f df` at the given, else the initial parameter values, from the fp64 reference, rounded to
    6 digits."""
    x = torch.linspace(low, high, points, dtype=torch.float64, requires_grad=True)
    y = act(x, impl="reference", **(values or {}))
    (dx,) = torch.autograd.grad(y.sum(), x)
    return {
        "x": _plain(x.detach()),
        "f": _plain(y.detach()),
        "df": _plain(dx),
    }


def _plain(values: torch.Tensor) -> list[float]:
    return [float(f"{v:.6g}") for v in values.tolist()]
