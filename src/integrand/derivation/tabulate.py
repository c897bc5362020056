"""Build a certified table of I(u) = integral of h from 0 to u, in multi-precision.

Each segment holds a Chebyshev interpolant of h, integrated exactly, so I inherits its error bound
(the size of the last Chebyshev coefficients). The tail separates the growth
b1 v + E log v + b0 + d/v of h and interpolates what is left in 1/v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from mpmath import mp

from integrand.derivation.budget import check
from integrand.derivation.table import Table
from integrand.errors import DerivationError

_NODES = 16
_DIGITS = 100
_TOLERANCE = mp.mpf("1e-15")
_LO, _HI, _SPLITS = -3, (7, 10), (1, 2, 3, 4)


def tabulate(name: str, h: Callable[[Any], Any], sides: tuple[bool, bool]) -> Table:
    """The table of the integral of h, on the sides (negative, positive) that are asked for.

    Raises `DerivationError` where h is not smooth on a side or its tail is of another kind than
    b1 v + E log v + b0 + d/v + O(1/v^2).
    """
    problem: DerivationError | None = None
    with mp.workdps(_DIGITS):
        for hi in _HI:
            for split in _SPLITS:
                try:
                    built = [
                        _side(h, sign, hi, split) if wanted else _absent(hi, split)
                        for sign, wanted in zip((-1, 1), sides, strict=True)
                    ]
                except _Rough as rough:
                    problem = DerivationError(str(rough))
                    if rough.final:
                        break
                    continue
                near, middle, growth, far = zip(*built, strict=True)
                width = max(len(row) for side in middle for row in side)
                middle = tuple(_padded(side, width) for side in middle)
                near, far = (_padded(rows, max(map(len, rows))) for rows in (near, far))
                return Table(name, _LO, hi, split, near, middle, growth, far)
    raise problem or DerivationError("the table could not be built")


def _padded(rows: Sequence[tuple[float, ...]], width: int) -> tuple[tuple[float, ...], ...]:
    return tuple(row + (0.0,) * (width - len(row)) for row in rows)


class _Rough(Exception):
    def __init__(self, text: str, final: bool = False):
        super().__init__(text)
        self.final = final


def _absent(hi: int, split: int) -> tuple[Any, Any, Any, Any]:
    segments = ((0.0,),) * ((hi - _LO) << split)
    return (0.0,), segments, (0.0, 0.0, 0.0, 0.0), (0.0,)


@lru_cache(8)
def _transform(n: int, dps: int) -> tuple[list[Any], list[list[Any]], list[list[Any]]]:
    """Chebyshev nodes on [-1, 1], values -> Chebyshev coefficients, Chebyshev -> monomials."""
    nodes = [mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    to_cheb = [
        [(2 - (k == 0)) * mp.cos(mp.pi * k * (2 * i + 1) / (2 * n)) / n for i in range(n)]
        for k in range(n)
    ]
    mono = [[mp.mpf(0)] * n for _ in range(n)]
    mono[0][0] = mono[1][1] = mp.mpf(1)
    for k in range(2, n):
        for j in range(n):
            mono[k][j] = (2 * mono[k - 1][j - 1] if j else 0) - mono[k - 2][j]
    return nodes, to_cheb, mono


def _fit(function: Callable[[Any], Any], a: Any, b: Any, n: int) -> tuple[list[Any], Any]:
    """Monomial coefficients in t in [-1, 1] of the interpolant on [a, b], and its error."""
    check()
    nodes, to_cheb, mono = _transform(n, mp.dps)
    half, centre = (b - a) / 2, (a + b) / 2
    try:
        values = [function(centre + half * t) for t in nodes]
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise _Rough("the gradient has no real value on a piece", final=True) from None
    if not all(isinstance(v, mp.mpf) and mp.isfinite(v) for v in values):
        raise _Rough("the gradient has no finite real value on a piece", final=True)
    cheb = [mp.fdot(row, values) for row in to_cheb]
    coefficients = [mp.fsum(cheb[k] * mono[k][j] for k in range(j, n)) for j in range(n)]
    return coefficients, abs(cheb[-1]) + abs(cheb[-2])


def _integrate(c: list[Any]) -> list[Any]:
    return [mp.mpf(0)] + [v / (k + 1) for k, v in enumerate(c)]


def _side(h: Callable[[Any], Any], sign: int, hi: int, split: int) -> tuple[Any, Any, Any, Any]:
    def q(v: Any) -> Any:
        return sign * h(sign * v)

    near, value = _near(q, sign)
    # the tail first: where it fails, the many fits of the middle are saved
    growth_rates, rest = _asymptote(q, mp.mpf(2) ** hi)
    middle = []
    for e in range(_LO, hi):
        width = mp.mpf(2) ** (e - split)
        for k in range(1 << split):
            a = mp.mpf(2) ** e + k * width
            c, error = _fit(q, a, a + width, _NODES)
            c = [v * width / 2 for v in _integrate(c)]
            at_left = mp.fsum(v * (-1) ** j for j, v in enumerate(c))
            c[0] += value - at_left
            total = mp.fsum(c)
            size = max(abs(value), abs(total))
            if error * width > _TOLERANCE * max(size, mp.mpf(2) ** -60):
                raise _Rough(f"the table does not converge near |u| = {mp.nstr(a, 4)}")
            middle.append(_doubles(c))
            value = total
    growth, far = _tail(growth_rates, rest, sign, hi, value)
    return near, tuple(middle), growth, far


def _near(q: Callable[[Any], Any], sign: int) -> tuple[tuple[float, ...], Any]:
    top = mp.mpf(2) ** _LO
    # a fit in t in [-1, 1] of [0, top], moved to s = v / top in [0, 1] by t = 2 s - 1
    n = _NODES + 6
    c, error = _fit(q, mp.mpf(0), top, n)
    shifted = [mp.mpf(0)] * n
    for k in reversed(range(n)):
        shifted = [
            (2 * shifted[j - 1] if j else 0) - shifted[j] + (c[k] if j == 0 else 0)
            for j in range(n)
        ]
    scale = max(abs(v) for v in shifted)
    for j, v in enumerate(shifted):
        # leading coefficients that are 0 must be exactly 0: I keeps its relative accuracy at 0
        if abs(v) > mp.mpf("1e-17") * scale:
            break
        shifted[j] = mp.mpf(0)
    if scale and error > mp.mpf("1e-17") * scale:
        raise _Rough("the gradient is not smooth at 0 on one side", final=True)
    p = [v / (j + 1) for j, v in enumerate(shifted)]
    return _doubles([sign * v for v in p]), top * mp.fsum(p)


def _asymptote(q: Callable[[Any], Any], edge: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """(b1, E, b0, d) of q(v) ~ b1 v + E log v + b0 + d/v, and the fit of the rest in edge/v."""
    try:
        v1, v2 = mp.mpf(10) ** 40, mp.mpf(10) ** 42
        r1, r2 = (q(2 * v) - 2 * q(v) for v in (v1, v2))
        log_rate = _snap((r1 - r2) / (mp.log(v2) - mp.log(v1)))
        b0 = _snap(log_rate * (mp.log(2) - mp.log(v2)) - r2)
        b1 = _snap((q(v2) - log_rate * mp.log(v2) - b0) / v2)
        v3 = mp.mpf(10) ** 18
        d = _snap((q(v3) - b1 * v3 - log_rate * mp.log(v3) - b0) * v3)
        size = edge * max(abs(q(edge)), mp.mpf(2) ** -60)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise _Rough("the gradient has no value far from 0", final=True) from None

    def rest(z: Any) -> Any:
        v = edge / z
        return (q(v) - b1 * v - log_rate * mp.log(v) - b0 - d / v) / z**2

    c, error = _fit(rest, mp.mpf(0), mp.mpf(1), _NODES + 4)
    if error * edge > _TOLERANCE * max(size, 1):
        raise _Rough("the gradient does not behave like a v + b + c log v + d/v far from 0", True)
    return (b1, log_rate, b0, d), c


def _tail(
    rates: tuple[Any, ...], c: list[Any], sign: int, hi: int, value: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    edge = mp.mpf(2) ** hi
    b1, log_rate, b0, d = rates
    # far(z) = J(edge) - growth(edge) + edge * integral of rest from z to 1
    n = len(c)
    shifted = [mp.mpf(0)] * n
    for k in reversed(range(n)):
        shifted = [
            (2 * shifted[j - 1] if j else 0) - shifted[j] + (c[k] if j == 0 else 0)
            for j in range(n)
        ]
    p = [-edge * v for v in _integrate(shifted)]
    log_edge = mp.log(edge)
    grown = b1 * edge**2 / 2 + (b0 - log_rate) * edge + log_rate * edge * log_edge + d * log_edge
    p[0] += value - grown - mp.fsum(p)
    growth = (b1 / 2, sign * (b0 - log_rate), d, sign * log_rate)
    return tuple(map(float, growth)), _doubles(p)


def _snap(value: Any) -> Any:
    # asymptotic coefficients carry an extrapolation error near 1e-18; those that vanish must be 0
    return mp.mpf(0) if abs(value) < mp.mpf("1e-15") else value


def _doubles(c: list[Any]) -> tuple[float, ...]:
    scale = max((abs(v) for v in c), default=mp.mpf(0))
    last = max((j for j, v in enumerate(c) if abs(v) > mp.mpf("1e-19") * scale), default=0)
    return tuple(float(v) for v in c[: last + 1])
