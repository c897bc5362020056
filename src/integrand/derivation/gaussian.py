"""Means under a normal distribution of what a scalar program computes, in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import Program, evaluate

Array = np.ndarray[Any, np.dtype[np.float64]]
REACH = 37.0  # deviations beyond which a normal weighs less than 1e-297
NEAR = 13.0  # beyond which, less than 1e-37: only what grows like an exponential is seen there
NODES = 24  # Gauss-Legendre, per interval


def function(program: Program, values: Mapping[str, Any], name: str) -> Callable[[Any], Array]:
    """x -> the program's result `name` ("f", "df", "d_alpha" ...) at parameter values."""
    o = NumpyOps(64)
    params = {k: o.array(v) for k, v in values.items()}

    def run(x: Any) -> Array:
        points = o.array(x)
        with np.errstate(all="ignore"):
            (y,) = evaluate(program, o, points, params, [name])
        return np.broadcast_to(y, points.shape)

    return run


def normal(variance: float = 1.0, cuts: Sequence[float] = ()) -> tuple[Array, Array]:
    """(x, w) with sum w h(x) = E h(x), x ~ N(0, variance), for h smooth between `cuts`.

    Gauss-Legendre between half deviations (three from `NEAR` on), the cuts, and points that double
    from 1/16 away from each cut and from 0: h may change there on its own scale, whatever the
    variance.
    """
    deviation = math.sqrt(variance)
    reach = REACH * deviation
    far = np.arange(NEAR + 3, REACH + 1, 3)
    edges = [deviation * np.concatenate([-far, np.arange(-2 * NEAR, 2 * NEAR + 1) / 2, far])]
    doublings = np.concatenate([[0.0], 2.0 ** np.arange(-4, 12)])
    edges += [c + s * doublings for c in (0.0, *cuts) for s in (-1, 1)]
    ends = np.unique(np.concatenate(edges))
    ends = ends[np.abs(ends) <= reach]
    t, w = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(ends)[:, None] / 2
    x = ((ends[:-1] + ends[1:])[:, None] / 2 + half * t).ravel()
    density = np.exp(-(x**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    return x, (half * w).ravel() * density


def expectation(
    h: Callable[[Array], Array], variance: float = 1.0, cuts: Sequence[float] = ()
) -> float:
    """E h(x), x ~ N(0, variance). 0 where terms cancel but for their rounding; inf, or nan where
    the sign is open, where h outgrows the normal or fp64 within `REACH` deviations."""
    x, weight = normal(variance, cuts)
    with np.errstate(all="ignore"):
        terms = weight * h(x)
        total, size = float(terms.sum()), float(np.abs(terms).sum())
        outermost = float(np.abs(terms[:NODES]).sum() + np.abs(terms[-NODES:]).sum())
    if math.isfinite(size) and outermost > 1e-12 * size:
        return math.inf if (terms >= 0).all() else -math.inf if (terms <= 0).all() else math.nan
    return total if not math.isfinite(size) or abs(total) > 1e-15 * size else 0.0
