"""Whether layers become less nonlinear with depth, as arXiv:2411.13010 says of xIELU."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from integrand.train.studies.scaling import slope_over
from integrand.train.studies.statistics import ALPHA, Estimate, estimate

# a change of the share from the first layer to the last that is too small to speak of
NEGLIGIBLE = 0.01


def nonlinearity(act: Any, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The share of Var f(x), x ~ N(0, 1), that the best straight line leaves: 0 is linear.

    1 - Cov(f, x)^2 / Var f, for every element of `values` (C,). ReLU leaves 0.267, a quadratic 1.
    """
    x, weight = _normal()
    count = next(iter(values.values())).numel()
    grid = x[:, None].expand(-1, count).contiguous()
    f = act(grid, impl="reference", **{k: v.double() for k, v in values.items()})
    centred = f - weight @ f
    explained = (weight @ (centred * grid)) ** 2
    return (1 - explained / (weight @ centred**2)).clamp(0, 1)


@functools.cache
def _normal() -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights of N(0, 1): Gauss-Legendre on panels of width 1/2, to 10 deviations.

    Gauss-Hermite loses its order at a kink; here a kink at 0 lies between two panels.
    """
    node, weight = np.polynomial.legendre.leggauss(12)
    middles = np.arange(-9.75, 10, 0.5)
    x = (middles[:, None] + node / 4).ravel()
    mass = np.tile(weight / 4, len(middles)) * np.exp(-x * x / 2)
    return torch.from_numpy(x), torch.from_numpy(mass / mass.sum())


def nonlinearity_by_layer(act: Any, values: Mapping[str, Sequence[Any]]) -> list[float]:
    """Nonlinearity per layer of `activation_values`; of several channels, their mean."""
    found = []
    for layer in zip(*values.values(), strict=True):
        channels = [torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in layer]
        wide = dict(zip(values, torch.broadcast_tensors(*channels), strict=True))
        found.append(float(nonlinearity(act, wide).mean()))
    return found


def over_depth(per_seed: Sequence[Sequence[float]]) -> Estimate:
    """Change from the first layer to the last: per seed a straight line over depth, then t."""
    depth = np.linspace(0, 1, len(per_seed[0]))
    return estimate([slope_over(depth, layers) for layers in per_seed])


def claim(change: Estimate, p: float | None) -> str:
    """Of "less nonlinear with depth": reproduced, not reproduced, opposite or cannot tell.

    "not reproduced" needs an interval that holds no change worth the name; an interval that is
    merely too wide says nothing.
    """
    if change.ci is not None and max(map(abs, change.ci)) < NEGLIGIBLE:
        return "not reproduced"
    if p is None or p >= ALPHA:
        return "cannot tell"
    return "reproduced" if change.mean < 0 else "opposite"


def direction(change: Estimate, p: float | None) -> str:
    if p is None or p >= ALPHA:
        return "cannot tell"
    return "falls" if change.mean < 0 else "rises"
