"""numpy as a namespace for scalar programs, in fp32 or fp64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrand.derivation.table import Table


class NumpyOps:
    """The core operations of `primitives.py` on arrays of np.float32 or np.float64.

    In fp32 the transcendental core is computed in fp64 and rounded: numpy's own fp32 `log` is off
    by up to 4 ulp.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.dtype = np.dtype(np.float32 if bits == 32 else np.float64)

    def array(self, value: Any) -> NDArray[Any]:
        """The value as an array of this namespace's type."""
        return np.asarray(value, dtype=self.dtype)

    def const(self, decimal: str) -> NDArray[Any]:
        return self.array(float(decimal))

    def where(self, condition: Any, a: Any, b: Any) -> NDArray[Any]:
        return np.where(condition, self.array(a), self.array(b))

    def minimum(self, a: Any, b: Any) -> NDArray[Any]:
        return np.minimum(a, b)

    def maximum(self, a: Any, b: Any) -> NDArray[Any]:
        return np.maximum(a, b)

    def pow(self, a: Any, b: Any) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            return self.array(np.power(np.float64(a), np.float64(b)))

    def exp(self, x: Any) -> NDArray[Any]:
        return self._wide(np.exp, x)

    def log(self, x: Any) -> NDArray[Any]:
        return self._wide(np.log, x)

    def sin(self, x: Any) -> NDArray[Any]:
        return self._wide(np.sin, x)

    def cos(self, x: Any) -> NDArray[Any]:
        return self._wide(np.cos, x)

    def sqrt(self, x: Any) -> NDArray[Any]:
        return self._wide(np.sqrt, x)

    def abs(self, x: Any) -> NDArray[Any]:
        return np.abs(x)

    def rint(self, x: Any) -> NDArray[Any]:
        return np.rint(x)

    def isnan(self, x: Any) -> NDArray[Any]:
        return np.isnan(x)

    def isinf(self, x: Any) -> NDArray[Any]:
        return np.isinf(x)

    def table(self, table: Table, u: Any) -> NDArray[Any]:
        """The certified table at u; its growth at an infinity."""
        u = self.array(u)
        with np.errstate(all="ignore"):
            sides = [self._side(table, side, u) for side in (0, 1)]
        return np.where(u < 0, sides[0], sides[1])

    def _wide(self, f: Any, x: Any) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            return self.array(f(np.float64(x)))

    def _side(self, table: Table, side: int, u: NDArray[Any]) -> NDArray[Any]:
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

    def _growth(self, table: Table, side: int, u: NDArray[Any], a: NDArray[Any]) -> NDArray[Any]:
        a2, a1, log, log1 = table.growth[side]
        top = np.finfo(self.dtype).max
        # bounded, so that no inf - inf or 0 * inf arises; the outer factor u brings the infinity
        bounded = np.clip(u, -top, top)
        logarithm = np.log(np.where(a > 0, np.minimum(a, top), self.array(1.0)))
        slope = a2 * bounded + a1 + log1 * logarithm
        if not (a2 or a1 or log1):
            return log * np.log(a) if log else u * 0 if False else np.zeros_like(a)
        return u * slope + log * logarithm


def _horner(coefficients: list[NDArray[Any]], t: NDArray[Any]) -> NDArray[Any]:
    result = coefficients[-1] + t * 0
    for coefficient in coefficients[-2::-1]:
        result = result * t + coefficient
    return result
