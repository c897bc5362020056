"""How the variance of pre-activations and small differences travel through a wide random network.

For weights N(0, C_W / fan_in) and biases N(0, C_b) the variance K of a layer's pre-activations
becomes C_b + C_W E f(z)^2, z ~ N(0, K), in the limit of infinite width. A small change of K is
multiplied by chi_par = C_W (d/dK) E f^2 = C_W E[f(z)^2 (z^2 - K)] / (2 K^2), a small difference
between two inputs by chi_perp = C_W E f'(z)^2. Signals keep their size over many layers where both
are 1. Source: "The Principles of Deep Learning Theory", arXiv:2106.10165, chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from integrand.derivation.gaussian import Array, expectation, function
from integrand.derivation.program import Program

Class = Literal["scale-invariant", "K*=0", "half-stable", "none"]
RANGE = (1e-3, 1e4)  # of the variances searched for a fixed point
SMALL = 1e-4  # a variance at which an activation shows how it behaves near 0


@dataclass(frozen=True)
class Criticality:
    """The universality class of an activation, and the initialisation at which it is critical.

    - `scale-invariant`: f(cx) = c f(x); critical at any variance (ReLU)
    - `K*=0`: f(0) = 0, f' is not 0 on both sides of it, and small variances shrink further, ever
      more slowly: both chi tend to 1 (tanh, sin, ReLU6)
    - `half-stable`: there is a variance K* > 0 at which chi_par = chi_perp = 1 (SiLU, GELU)
    - `none`: no C_W > 0 and C_b >= 0 make it critical (sigmoid, softplus, ReLU^2)

    `variance` is K*, `weight` C_W and `bias` C_b; None where there is none.
    """

    universality: Class
    variance: float | None = None
    weight: float | None = None
    bias: float | None = None


class Kernel:
    """E f^2, E f'^2 and (d/dK) E f^2 as functions of the variance K."""

    def __init__(
        self,
        f: Callable[[Any], Array],
        df: Callable[[Any], Array],
        cuts: Sequence[float] = (),
    ) -> None:
        self.f, self.df, self.cuts = f, df, tuple(cuts)

    @classmethod
    def of(
        cls, program: Program, values: Mapping[str, float], cuts: Sequence[float] = ()
    ) -> Kernel:
        """The kernel of a scalar program at parameter values."""
        return cls(function(program, values, "f"), function(program, values, "df"), cuts)

    def square(self, variance: float) -> float:
        """E f(z)^2, z ~ N(0, variance)."""
        return expectation(lambda z: self.f(z) ** 2, variance, self.cuts)

    def slope_square(self, variance: float) -> float:
        """E f'(z)^2: chi_perp = C_W times it."""
        return expectation(lambda z: self.df(z) ** 2, variance, self.cuts)

    def growth(self, variance: float) -> float:
        """(d/dK) E f(z)^2: chi_par = C_W times it."""
        terms = expectation(lambda z: self.f(z) ** 2 * (z**2 - variance), variance, self.cuts)
        return terms / (2 * variance**2)

    def step(self, variance: float, weight: float, bias: float = 0.0) -> float:
        """The variance of the next layer's pre-activations: C_b + C_W E f^2."""
        return bias + weight * self.square(variance)


def criticality(kernel: Kernel) -> Criticality:
    """The class of an activation, from fp64 quadrature; `half-stable`: the smallest such K*."""
    points = np.array([-3.0, -1.0, -0.25, 0.25, 1.0, 3.0])
    with np.errstate(all="ignore"):
        scaled = np.abs(kernel.f(4 * points) - 4 * kernel.f(points))
    if (scaled <= 1e-14 * (1 + np.abs(kernel.f(4 * points)))).all() and kernel.square(1.0) > 0:
        return Criticality("scale-invariant", None, 1 / kernel.square(1.0), 0.0)
    if (variance := _balanced(kernel)) is not None:
        weight = 1 / kernel.slope_square(variance)
        bias = variance - weight * kernel.square(variance)
        return Criticality("half-stable", variance, weight, bias)
    slope_square = _small_slope_square(kernel)
    if float(kernel.f(0.0)) == 0 and slope_square > 0 and _shrinks(kernel, slope_square):
        return Criticality("K*=0", 0.0, 1 / slope_square, 0.0)
    return Criticality("none")


def _small_slope_square(kernel: Kernel) -> float:
    """E f'(z)^2 as the variance goes to 0: half of it comes from either side of a kink."""
    return float(np.mean(kernel.df(np.array([-1e-300, 1e-300])) ** 2))


def _shrinks(kernel: Kernel, slope_square: float) -> bool:
    """Whether variances shrink at C_W = 1 / slope_square, where they first do not stay: what is
    linear up to a clip shows it later than what is smooth."""
    for variance in np.geomspace(SMALL, RANGE[1], 33):
        excess = kernel.growth(variance) / slope_square - 1
        if abs(excess) > 1e-9:
            return excess < 0
    return False


def _balanced(kernel: Kernel) -> float | None:
    """The smallest variance at which both chi are 1 for one C_W > 0, with C_b >= 0."""

    def excess(log: float) -> float:
        variance = math.exp(log)
        # relative, so that rounding is told from a root
        perp = kernel.slope_square(variance)
        return (perp - kernel.growth(variance)) / perp if perp > 0 else math.nan

    low, high = np.log(RANGE)
    grid = np.linspace(low, high, 65)
    found = [excess(x) for x in grid]
    for (a, u), (b, v) in pairwise(zip(grid, found, strict=True)):
        if not (math.isfinite(u) and math.isfinite(v)) or u * v > 0 or max(abs(u), abs(v)) < 1e-9:
            continue
        for _ in range(60):
            middle = (a + b) / 2
            a, b = (middle, b) if excess(middle) * u > 0 else (a, middle)
        variance = math.exp((a + b) / 2)
        bias = variance - kernel.square(variance) / kernel.slope_square(variance)
        if bias >= 0:
            return variance
    return None


def curvature(kernel: Kernel) -> float | None:
    """g2 in E f^2 = f'(0)^2 K + g2 K^2 + ..., which is f'(0) f'''(0) + 3/4 f''(0)^2 for smooth f.

    Negative: small variances shrink, at C_W = 1 / f'(0)^2. None where E f^2 has no such expansion:
    f(0) != 0, or a jump of f'' at 0. Source: arXiv:2106.10165, equation 5.83 times f'(0)^2.
    """
    if float(kernel.f(0.0)) != 0:
        return None
    slope = float(kernel.df(0.0)) ** 2
    variances = [2.0**-k for k in range(5, 13)]
    table = [(kernel.square(v) / v - slope) / v for v in variances]
    # the error is a power series in K: halving K takes away one power at a time
    for order in range(1, len(table) - 1):
        table = [(2**order * b - a) / (2**order - 1) for a, b in pairwise(table)]
        if abs(table[-1] - table[-2]) <= 1e-9 * (1 + abs(table[-1])):
            return table[-1]
    return None
