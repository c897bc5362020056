"""What a practitioner asks of an activation, computed at given parameter values.

Numbers come from the fp64 scalar program on a grid over all scales, extremes refined by zooming;
smoothness from one-sided derivatives of the declared text in multi-precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from mpmath import mp

from integrand.derivation.criticality import Criticality, Kernel, criticality, curvature
from integrand.derivation.exact import breakpoints, exact
from integrand.derivation.gaussian import Array, expectation, function
from integrand.derivation.program import Program
from integrand.spec import Spec

_ORDERS = 5


@dataclass(frozen=True)
class Properties:
    """Facts about f at one set of parameter values.

    - `breakpoints`: per breakpoint, the k of the class C^k of f there (`checked` orders at most)
    - `smoothness`: the smallest of them; None where f is smooth everywhere
    - `gradient_range`: infimum and supremum of f'
    - `monotone`: whether f' does not change sign; `lipschitz`: sup |f'|
    - `limits`, `slope_limits`: f and f' at -inf and inf, nan where there is none
    - `roots`: isolated zeros of f; `zero_on`: intervals on which f is 0
    - `minima`: local minima (x, f(x))
    - `mean`, `second_moment`, `gradient_second_moment`: E f(z), E f(z)^2, E f'(z)^2, z ~ N(0, 1)
    - `criticality`: universality class, and the initialisation at which signals keep their size
    - `curvature`: g2 in E f(z)^2 = f'(0)^2 K + g2 K^2 + ..., z ~ N(0, K), None where E f^2 has no
      such expansion; below 0 small variances shrink (arXiv:2106.10165, equation 5.83 times f'(0)^2)
    """

    values: dict[str, float]
    breakpoints: dict[float, int]
    smoothness: int | None
    gradient_range: tuple[float, float]
    monotone: bool
    lipschitz: float
    limits: tuple[float, float]
    slope_limits: tuple[float, float]
    roots: tuple[float, ...]
    zero_on: tuple[tuple[float, float], ...]
    minima: tuple[tuple[float, float], ...]
    mean: float
    second_moment: float
    gradient_second_moment: float
    criticality: Criticality
    curvature: float | None

    @property
    def gain(self) -> float:
        """1/sqrt(E f^2): the weight gain that keeps the variance of N(0, 1) pre-activations."""
        return _gain(self.second_moment)

    @property
    def gradient_gain(self) -> float:
        """1/sqrt(E f'^2): the weight gain that keeps the variance of gradients there."""
        return _gain(self.gradient_second_moment)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "gain": self.gain, "gradient_gain": self.gradient_gain}


def _gain(second_moment: float) -> float:
    return 1 / math.sqrt(second_moment) if second_moment > 0 else math.inf


def properties(
    spec: Spec, program: Program, values: Mapping[str, float] | None = None
) -> Properties:
    """The properties of a derived activation at its initial, or the given, parameter values."""
    at = {**spec.values(), **(values or {})}

    f, df = function(program, at, "f"), function(program, at, "df")
    with mp.workdps(60):
        exact_values = {k: mp.mpf(repr(v)) for k, v in at.items()}
        cuts = breakpoints(spec.node, exact_values, mp)
        classes = {float(c): _smoothness(spec, c, exact_values) for c in cuts}
    points = _grid(list(classes))
    slopes = df(points)
    slope_limits = tuple(float(v) for v in df(np.array([-np.inf, np.inf])))
    known_limits = [v for v in slope_limits if not math.isnan(v)]
    low = min([_extreme(df, points, slopes, -1), *known_limits])
    high = max([_extreme(df, points, slopes, 1), *known_limits])
    heights = f(points)
    roots, zero_on = _zeros(f, points, heights, list(classes))
    minima = [
        x
        for a, b, u, v in zip(points, points[1:], slopes, slopes[1:], strict=False)
        if u < 0 < v
        for x in [_bisect(df, a, b)]
    ]
    touched = (slopes[:-2] < 0) & (slopes[1:-1] == 0) & (slopes[2:] > 0)
    minima = sorted([*minima, *points[1:-1][touched].tolist()])
    kinds = list(classes.values())
    kernel = Kernel.of(program, at, list(classes))
    return Properties(
        values=at,
        breakpoints=classes,
        smoothness=min(kinds) if kinds else None,
        gradient_range=(low, high),
        monotone=bool(low >= 0 or high <= 0),
        lipschitz=max(abs(low), abs(high)),
        limits=tuple(float(v) for v in f(np.array([-np.inf, np.inf]))),  # type: ignore[arg-type]
        slope_limits=slope_limits,  # type: ignore[arg-type]
        roots=tuple(roots),
        zero_on=tuple(zero_on),
        minima=tuple((x, float(f(np.array([x]))[0]) + 0.0) for x in minima),
        mean=expectation(f, 1.0, kernel.cuts),
        second_moment=kernel.square(1.0),
        gradient_second_moment=kernel.slope_square(1.0),
        criticality=criticality(kernel),
        curvature=curvature(kernel),
    )


def _smoothness(spec: Spec, cut: Any, values: Mapping[str, Any]) -> int:
    """The k of the class C^k of f at a breakpoint, from one-sided derivatives of the text."""
    step = mp.mpf("1e-9")

    def one_sided(sign: int) -> list[Any]:
        # derivatives of the polynomial through points on one side; error of order `step`
        n = _ORDERS + 4
        xs = [cut + sign * step * (k + 1) for k in range(n)]
        table = [exact(spec.node, x, values, mp) for x in xs]
        newton = []
        for order in range(n):
            newton.append(table[0])
            table = [
                (b - a) / (xs[i + order + 1] - xs[i]) for i, (a, b) in enumerate(pairwise(table))
            ]
        derivatives = []
        for order in range(_ORDERS):
            # derivative of the Newton form at `cut`, by differencing its values in high precision
            derivatives.append(mp.factorial(order) * _taylor(newton, xs, cut, order))
        return derivatives

    left, right = one_sided(-1), one_sided(1)
    for order in range(_ORDERS):
        if abs(left[order] - right[order]) > mp.mpf("1e-6") * (1 + abs(left[order])):
            return order - 1 + (spec.kind == "gradient")
    return _ORDERS - 1 + (spec.kind == "gradient")


def _taylor(newton: list[Any], xs: list[Any], at: Any, order: int) -> Any:
    """Taylor coefficient at a point of the polynomial in Newton form."""
    coefficients = [mp.mpf(0)] * (order + 1)
    for c, x in zip(reversed(newton), reversed(xs), strict=True):
        shifted = [
            (coefficients[k - 1] if k else 0) + (at - x) * coefficients[k] for k in range(order + 1)
        ]
        shifted[0] += c
        coefficients = shifted
    return coefficients[order]


def _grid(cuts: list[float]) -> Array:
    scales = np.concatenate([np.logspace(-6, 4, 1500), np.linspace(0, 12, 4000)[1:]])
    near = [c + s * d for c in cuts for s in (-1, 1) for d in (0.0, 1e-9 * (1 + abs(c)))]
    return np.unique(np.concatenate([-scales, [0.0], scales, near]))


def _extreme(df: Callable[[Any], Array], points: Array, values: Array, sign: int) -> float:
    i = int(np.nanargmax(sign * values))
    low, high = points[max(i - 1, 0)], points[min(i + 1, len(points) - 1)]
    best = float(values[i])
    for _ in range(8):
        fine = np.linspace(low, high, 41)
        heights = df(fine)
        j = int(np.nanargmax(sign * heights))
        best = sign * max(sign * best, sign * float(heights[j]))
        low, high = fine[max(j - 1, 0)], fine[min(j + 1, 40)]
    return best


def _bisect(function: Callable[[Any], Array], a: float, b: float) -> float:
    rising = function(np.array([b]))[0] > 0
    for _ in range(80):
        middle = (a + b) / 2
        value = function(np.array([middle]))[0]
        if value == 0:
            return float(middle)
        a, b = (a, middle) if (value > 0) == rising else (middle, b)
    return float((a + b) / 2)


def _zeros(
    f: Callable[[Any], Array], points: Array, values: Array, cuts: list[float]
) -> tuple[list[float], list[tuple[float, float]]]:
    """Isolated roots, and intervals of zeros: those end at a breakpoint, all else is underflow."""
    roots: list[float] = []
    flat: list[tuple[float, float]] = []
    i = 0
    while i < len(points):
        if values[i] == 0:
            j = i
            while j + 1 < len(points) and values[j + 1] == 0:
                j += 1
            if j == i:
                roots.append(float(points[i]))
            elif {*points[i : j + 1]} & {*cuts}:
                low = -math.inf if i == 0 else float(points[i])
                high = math.inf if j == len(points) - 1 else float(points[j])
                flat.append((low, high))
            i = j
        elif i + 1 < len(points) and np.sign(values[i]) * np.sign(values[i + 1]) < 0:
            roots.append(_bisect(f, points[i], points[i + 1]))
        i += 1
    return roots, flat
