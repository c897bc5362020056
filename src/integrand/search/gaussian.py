"""Rung 1: how signals travel through wide random layers, and what a kernel would cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from integrand.derivation.criticality import Kernel, criticality
from integrand.search.cost import cost, saved_bytes
from integrand.search.profile import Profile


@dataclass(frozen=True)
class Gaussian:
    """At variance 1: `gain` 1 / sqrt(E f^2) keeps the size of signals, `backward_gain`
    1 / sqrt(E g^2) that of gradients; with C_W = gain^2, `chi` = C_W E g^2 multiplies a small
    difference per layer and `chi_parallel` a small change of the variance.

    `universality`, `variance`, `weight` and `bias` are those of `Criticality`. `cost` counts the
    arithmetic of the declared text (`cost.py`), `saved_bytes` what backward keeps per bf16 element.
    """

    gain: float
    backward_gain: float
    chi: float
    chi_parallel: float
    universality: str
    variance: float | None
    weight: float | None
    bias: float | None
    cost: float
    saved_bytes: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ProfileKernel(Kernel):
    """The kernel whose means are sums over the nodes of a profile: f is computed once, not for
    every variance."""

    def __init__(self, p: Profile) -> None:
        super().__init__(p.value, p.slope, p.cuts)
        self.nodes = p.x
        self.squares, self.slopes = p.f**2, p.g**2
        self.density = lru_cache(2)(p.density)

    def square(self, variance: float) -> float:
        part, density = self.density(variance)
        return float(density @ self.squares[part])

    def slope_square(self, variance: float) -> float:
        part, density = self.density(variance)
        return float(density @ self.slopes[part])

    def growth(self, variance: float) -> float:
        part, density = self.density(variance)
        change = self.squares[part] * (self.nodes[part] ** 2 - variance)
        return float(density @ change) / (2 * variance**2)


def gaussian(p: Profile) -> Gaussian:
    """The second rung of a candidate that passed the first."""
    kernel = ProfileKernel(p)
    weight = 1 / kernel.square(1.0)
    with np.errstate(all="ignore"):
        found = criticality(kernel)
    return Gaussian(
        gain=math.sqrt(weight),
        backward_gain=1 / math.sqrt(kernel.slope_square(1.0)),
        chi=weight * kernel.slope_square(1.0),
        chi_parallel=weight * kernel.growth(1.0),
        universality=found.universality,
        variance=found.variance,
        weight=found.weight,
        bias=found.bias,
        cost=cost(p.spec),
        saved_bytes=saved_bytes(p),
    )
