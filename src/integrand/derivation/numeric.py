"""numpy as a namespace for scalar programs, and fp64 evaluation with a running error bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrand.derivation.primitives import PRIMITIVES, call
from integrand.derivation.program import BINARY, Program
from integrand.derivation.table import Table

Array = NDArray[Any]
UNIT = 2.0**-53
SMALLEST = 2.0**-1074
TABLE_ERROR = 1e-13


class NumpyOps:
    """The core operations of `primitives.py` on arrays of np.float32 or np.float64.

    In fp32 the transcendental core is computed in fp64 and rounded: numpy's own fp32 `log` is off
    by up to 4 ulp.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.dtype = np.dtype(np.float32 if bits == 32 else np.float64)

    def array(self, value: Any) -> Array:
        """The value as an array of this namespace's type."""
        return np.asarray(value, dtype=self.dtype)

    def const(self, decimal: str) -> Array:
        return self.array(float(decimal))

    def where(self, condition: Any, a: Any, b: Any) -> Array:
        return np.where(condition, self.array(a), self.array(b))

    def minimum(self, a: Any, b: Any) -> Array:
        return np.minimum(a, b)

    def maximum(self, a: Any, b: Any) -> Array:
        return np.maximum(a, b)

    def pow(self, a: Any, b: Any) -> Array:
        with np.errstate(all="ignore"):
            return self.array(np.power(np.float64(a), np.float64(b)))

    def exp(self, x: Any) -> Array:
        return self._wide(np.exp, x)

    def log(self, x: Any) -> Array:
        return self._wide(np.log, x)

    def sin(self, x: Any) -> Array:
        return self._wide(np.sin, x)

    def cos(self, x: Any) -> Array:
        return self._wide(np.cos, x)

    def sqrt(self, x: Any) -> Array:
        return self._wide(np.sqrt, x)

    def abs(self, x: Any) -> Array:
        return np.abs(x)

    def rint(self, x: Any) -> Array:
        return np.rint(x)

    def octave(self, x: Any, k: int) -> tuple[Array, Array]:
        n = np.rint(x * self.array(1.4426950408889634))
        return n, self._wide(np.exp2, n - k)

    def isnan(self, x: Any) -> Array:
        return np.isnan(x)

    def isinf(self, x: Any) -> Array:
        return np.isinf(x)

    def table(self, table: Table, u: Any) -> Array:
        """The certified table at u; its growth at an infinity."""
        u = self.array(u)
        with np.errstate(all="ignore"):
            sides = [self._side(table, side, u) for side in (0, 1)]
        return np.where(u < 0, sides[0], sides[1])

    def _wide(self, f: Any, x: Any) -> Array:
        with np.errstate(all="ignore"):
            return self.array(f(np.float64(x)))

    def _side(self, table: Table, side: int, u: Array) -> Array:
        a = np.abs(u)
        near = u * _horner([self.array(c) for c in table.near[side]], a * 2.0**-table.lo)
        mantissa, exponent = np.frexp(np.where(a < np.inf, a, self.array(1.0)))
        place = (2.0 * mantissa - 1.0) * 2.0**table.split
        segment = np.floor(np.where(place == place, place, self.array(0.0)))
        index = (exponent - 1 - table.lo) * 2**table.split + segment.astype(np.int64)
        rows = np.array(table.middle[side], dtype=self.dtype)
        picked = rows[np.clip(index, 0, len(rows) - 1)]
        middle = _horner([picked[..., k] for k in range(rows.shape[1])], 2 * (place - segment) - 1)
        far = self._growth(table, side, u, a)
        far = far + _horner([self.array(c) for c in table.far[side]], 2.0**table.hi / a)
        return np.where(a < 2.0**table.lo, near, np.where(a < 2.0**table.hi, middle, far))

    def _growth(self, table: Table, side: int, u: Array, a: Array) -> Array:
        a2, a1, log, log1 = table.growth[side]
        if not (a2 or a1 or log1):
            return log * np.log(a) if log else np.zeros_like(a)
        top = np.finfo(self.dtype).max
        # bounded, so that no inf - inf or 0 * inf arises; the outer factor u brings the infinity
        logarithm = np.log(np.minimum(a, top))
        return u * (a2 * np.clip(u, -top, top) + a1 + log1 * logarithm) + log * logarithm


def _horner(coefficients: list[Array], t: Array) -> Array:
    result = coefficients[-1] + t * 0
    for coefficient in coefficients[-2::-1]:
        result = result * t + coefficient
    return result


def evaluate_with_bound(
    program: Program, x64: Array, params: Mapping[str, float], outputs: Iterable[str]
) -> tuple[list[Array], list[Array]]:
    """(values, bounds): |value - exact| <= bound elementwise, for x and params taken as exact.

    fp64 running error analysis. Sound, not tight; a bound is inf where nothing is known, which
    includes every value that is not finite. A primitive takes the largest change over its
    argument's error interval (its ends and 0, where the even ones turn) plus its stated ulps.
    """
    outputs = list(outputs)
    ops = NumpyOps(64)
    env: dict[int, tuple[Array, Array]] = {}
    with np.errstate(all="ignore"):
        for i in program.needed(outputs):
            env[i] = _bounded(program, ops, i, env, np.asarray(x64, np.float64), params)
    pairs = [env[program.outputs[name]] for name in outputs]
    return [v for v, _ in pairs], [np.where(np.isfinite(v), e, np.inf) for v, e in pairs]


def _bounded(
    program: Program,
    ops: NumpyOps,
    i: int,
    env: Mapping[int, tuple[Array, Array]],
    x: Array,
    params: Mapping[str, float],
) -> tuple[Array, Array]:
    op = program.ops[i]
    zero = np.zeros(())
    match op[0]:
        case "x":
            return x, np.zeros_like(x)
        case "param":
            return np.asarray(params[op[1]], np.float64), zero
        case "const":
            value = np.asarray(float(op[1]))
            exact = not np.isfinite(value) or Fraction(op[1]) == Fraction(float(value))
            return value, zero if exact else UNIT * np.abs(value)
        case "call" if op[1] in ("isnan", "isinf"):
            value, error = env[op[2]]
            return getattr(ops, op[1])(value), ~np.isfinite(error)
        case "call":
            return _call(ops, op[1], *env[op[2]])
        case "table":
            return _table(ops, program.tables[op[1]], *env[op[2]])
        case "select":
            return _select(*(env[j] for j in op[1:]))
    (a, ea), (b, eb) = env[op[1]], env[op[2]]
    match op[0]:
        case "lt" | "le":
            error = ea + eb
            return BINARY[op[0]](a, b), ~((error == 0) | (np.abs(a - b) > error))
        case "and":
            # uncertain only where the other side does not settle it
            return a & b, (ea & (b | eb)) | (eb & (a | ea))
        case "min":
            return np.minimum(a, b), np.maximum(ea, eb)
        case "max":
            return np.maximum(a, b), np.maximum(ea, eb)
        case "pow":
            return _pow(a, ea, b, eb)
    value = BINARY[op[0]](a, b)
    rounding = UNIT * np.abs(value)
    if op[0] in ("add", "sub"):
        return value, _known(ea + eb + rounding)
    if op[0] == "mul":
        if not (np.any(ea) or np.any(eb)) and _is_fp32(a) and _is_fp32(b):
            # 48 bits, and no exponent beyond fp64's: exact
            return value, _known(0 * value)
        error = _times(np.abs(a), eb) + _times(np.abs(b), ea) + ea * eb
    else:
        room = np.abs(b) - eb
        error = np.where(room > 0, (ea + _times(np.abs(value), eb)) / room, np.inf)
    return value, _known(error * (1 + 8 * UNIT) + rounding + SMALLEST)


def _is_fp32(a: Array) -> bool:
    return bool(np.all((a.astype(np.float32) == a) | np.isnan(a)))


def _known(error: Array) -> Array:
    return np.where(np.isnan(error), np.inf, error)


def _times(size: Array, error: Array) -> Array:
    # an exact factor adds nothing, also beside an infinity
    return np.where(error == 0, 0.0, size * error)


def _select(
    condition: tuple[Array, Array], yes: tuple[Array, Array], no: tuple[Array, Array]
) -> tuple[Array, Array]:
    (c, unsure), (a, ea), (b, eb) = condition, yes, no
    gap = np.abs(a - b)
    error = np.where(c, ea, eb)
    return np.where(c, a, b), _known(np.where(unsure, np.maximum(ea, eb) + gap, error))


def _spread(f: Any, v: Array, x: Array, e: Array) -> Array:
    """The largest |f - v| at the ends of [x - e, x + e], widened by rounding, and at 0 inside."""
    low, high = np.nextafter(x - e, -np.inf), np.nextafter(x + e, np.inf)
    ends = [f(low), f(high), f(np.clip(0.0, low, high))]
    size = np.max([np.abs(end) for end in ends], axis=0)
    change = np.max([np.abs(end - v) for end in ends], axis=0)
    return np.where(e == 0, 0.0, change + 64 * UNIT * size)


def _call(ops: NumpyOps, name: str, x: Array, e: Array) -> tuple[Array, Array]:
    ulps = PRIMITIVES[name].ulp64
    value = call(ops, name, x)
    rounding = 2 * ulps * (UNIT * np.abs(value) + SMALLEST)
    if name in ("sin", "cos"):
        # next to a zero at a huge argument the C library's are off by more than their ulps
        return value, _known(np.minimum(e, 2.0) + rounding + 2.0**-100)
    return value, _known(_spread(lambda u: call(ops, name, u), value, x, e) + rounding)


def _table(ops: NumpyOps, table: Table, u: Array, e: Array) -> tuple[Array, Array]:
    value = ops.table(table, u)
    a = np.abs(u)
    below, above = np.abs(np.array(table.growth))
    a2, a1, log, log1 = (np.where(u < 0, *sides) for sides in zip(below, above, strict=True))
    logarithm = np.abs(np.log(np.maximum(a, 1.0)))
    terms = a2 * a * a + a1 * a + log * logarithm + log1 * a * logarithm
    far = np.where(a >= 2.0**table.hi, terms, 0.0)
    error = TABLE_ERROR * np.maximum(np.abs(value), far) + SMALLEST
    # the tabulated function may bend inside the interval: twice the change over it
    return value, _known(2 * _spread(lambda v: ops.table(table, v), value, u, e) + error)


def _pow(a: Array, ea: Array, b: Array, eb: Array) -> tuple[Array, Array]:
    value = np.power(a, b)
    corners = [np.power(a + s * ea, b + t * eb) for s in (-1, 1) for t in (-1, 1)]
    change = np.max([np.abs(corner - value) for corner in corners], axis=0)
    # monotone in each argument away from base 0; across it the size bounds the change
    across = np.abs(value) + np.max(np.abs(corners), axis=0)
    error = np.where(np.abs(a) > ea, change, across)
    error = np.where((ea == 0) & (eb == 0), 0.0, error + 16 * UNIT * np.abs(value))
    return value, _known(error + 4 * UNIT * np.abs(value) + SMALLEST)
