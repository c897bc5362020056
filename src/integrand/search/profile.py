"""f and g of a candidate on one grid of quadrature nodes: the one pass that cheap rungs share.

Gauss-Legendre panels that double away from 0 and end at every cut, from -1e4 to 1e4. A gradient is
integrated panel by panel outwards from 0 (no closed form), a function differentiated in forward
mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre

from integrand.search.cuts import cuts
from integrand.search.forward import Array, values, with_slope
from integrand.spec import Spec

NODES = 16
REACH = 1e4
_DEVIATIONS = 13.0  # a normal weighs less than 1e-37 beyond
_T, _W = legendre.leggauss(NODES)
_SIDE = np.concatenate([
    2.0 ** np.arange(-9, -1), np.arange(1, 17) / 2, 8 * 2 ** (np.arange(1, 21) / 2), [REACH],
])  # fmt: skip


def _running() -> Array:
    """R with (R @ h(t))_i = the integral of h from -1 to t_i, for polynomials below degree 16."""
    p = legendre.legvander(_T, NODES)
    n = np.arange(1, NODES)
    to_here = np.column_stack([_T + 1, (p[:, 2:] - p[:, :-2]) / (2 * n + 1)])
    return to_here @ ((2 * np.arange(NODES)[:, None] + 1) / 2 * p[:, :NODES].T * _W)


_RUNNING = _running()


@dataclass(frozen=True)
class Panels:
    """`x` and `weight` of shape (panels, NODES): sum(weight * h(x)) is the integral of h."""

    edges: Array
    half: Array
    x: Array
    weight: Array
    zero: int  # edges[zero] == 0

    @staticmethod
    @lru_cache(256)
    def of(cuts: tuple[float, ...]) -> Panels:
        """The panels between -REACH and REACH whose edges include the cuts."""
        edges = np.unique(np.concatenate([-_SIDE, [0.0], _SIDE, cuts]))
        half = np.diff(edges) / 2
        x = (edges[:-1] + half)[:, None] + half[:, None] * _T
        return Panels(edges, half, x, half[:, None] * _W, int(np.searchsorted(edges, 0.0)))

    def starts(self, g: Array) -> Array:
        """The integral of g from 0 to every edge, accumulated outwards."""
        totals = (self.weight * g).sum(1)
        left, right = totals[: self.zero], totals[self.zero :]
        return np.concatenate([-np.cumsum(left[::-1])[::-1], [0.0], np.cumsum(right)])


@dataclass(frozen=True)
class Profile:
    """`f` and `g` at the nodes `x`, flat and ascending, with quadrature weights `weight`."""

    spec: Spec
    params: dict[str, float]
    cuts: tuple[float, ...]
    panels: Panels
    f: Array
    g: Array
    starts: Array  # f at the edges, for a gradient without its anchor

    @property
    def x(self) -> Array:
        return self.panels.x.reshape(-1)

    @property
    def weight(self) -> Array:
        return self.panels.weight.reshape(-1)

    def slope(self, x: Array) -> Array:
        """g at any points."""
        if self.spec.kind == "gradient":
            return values(self.spec.node, x, self.params)
        return with_slope(self.spec.node, x, self.params)[1]

    def value(self, x: Array) -> Array:
        """f at any points of [-REACH, REACH]."""
        if self.spec.kind == "function":
            return values(self.spec.node, x, self.params)
        return self._integral(np.asarray(x, np.float64)) + self.constant

    @property
    def constant(self) -> float:
        """f(0) of a gradient; a limit as an anchor is taken at REACH."""
        point, value = self.spec.anchor
        return value - float(
            self._integral(np.clip(float(str(point).replace("oo", "inf")), -REACH, REACH))
        )

    def _integral(self, x: Array) -> Array:
        i = np.clip(
            np.searchsorted(self.panels.edges, x, "right") - 1, 0, len(self.panels.half) - 1
        )
        half = (x - self.panels.edges[i]) / 2
        t = self.panels.edges[i][..., None] + half[..., None] * (1 + _T)
        return self.starts[i] + half * (self.slope(t) @ _W)

    def mean(self, h: Array, variance: float = 1.0) -> float:
        """E h under N(0, variance), h given at the nodes; variances up to 1e4."""
        part, density = self.density(variance)
        return float(density @ h[part])

    def density(self, variance: float) -> tuple[slice, Array]:
        """The nodes within the reach of N(0, variance), and its density times their weights."""
        reach = _DEVIATIONS * math.sqrt(variance)
        x = self.x
        part = slice(*np.searchsorted(x, (-reach, reach)))
        z = x[part]
        scale = 1 / math.sqrt(2 * math.pi * variance)
        return part, self.weight[part] * (scale * np.exp(z * z * (-0.5 / variance)))


def profile(spec: Spec, params: Mapping[str, float] | None = None) -> Profile:
    """The profile at parameter values, the initial ones by default. Never raises: what is not
    finite stays so in `f` and `g`."""
    numbers = dict(spec.values() if params is None else params)
    found = cuts(spec.node, numbers)
    panels = Panels.of(found)
    if spec.kind == "function":
        f, g = (y.ravel() for y in with_slope(spec.node, panels.x, numbers))
        return Profile(spec, numbers, found, panels, f, g, np.empty(0))
    g = values(spec.node, panels.x, numbers)
    with np.errstate(all="ignore"):
        starts = panels.starts(g)
        f = starts[:-1, None] + panels.half[:, None] * (g @ _RUNNING.T)
        result = Profile(spec, numbers, found, panels, f.ravel(), g.ravel(), starts)
        if spec.anchor != (0, 0):
            result = Profile(
                spec, numbers, found, panels, f.ravel() + result.constant, g.ravel(), starts
            )
    return result
