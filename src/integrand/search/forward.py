"""A parsed text on numpy arrays, alone or with its derivative in x: what the cheap rungs need.

Dual numbers (value, derivative) in forward mode; no SymPy. At a kink the derivative is that of one
side.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrand.derivation.numeric import NumpyOps
from integrand.derivation.primitives import call
from integrand.spec import Node, evaluate

Array = NDArray[np.float64]
Dual = tuple[Any, Any]
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


class _Numpy(NumpyOps):
    # numpy's own, where it has them in fp64: several times faster than the definitions
    expm1, log1p, tanh = np.expm1, np.log1p, np.tanh
    sinh, cosh, atan, asinh = np.sinh, np.cosh, np.arctan, np.arcsinh


_O = _Numpy(64)


class Values:
    """The namespace of `spec.evaluate` over fp64 arrays."""

    pi = np.float64(math.pi)
    num = staticmethod(np.float64)
    neg = staticmethod(operator.neg)
    add = staticmethod(operator.add)
    sub = staticmethod(operator.sub)
    mul = staticmethod(operator.mul)
    div = staticmethod(operator.truediv)
    pow = staticmethod(np.power)

    @staticmethod
    def call(name: str, *args: Any) -> Any:
        if name in ("min", "max"):
            return np.minimum(*args) if name == "min" else np.maximum(*args)
        return call(_O, name, *args)

    @staticmethod
    def select(op: str, x: Any, bound: Any, then: Any, otherwise: Any) -> Any:
        return np.where(COMPARE[op](x, bound), then(), otherwise())


def _rule(name: str, u: Any, y: Any) -> Any:
    """The derivative of y = name(u) in u."""
    match name:
        case "exp":
            return y
        case "expm1":
            return np.exp(u)
        case "expm1mx":
            return np.expm1(u)
        case "log":
            return 1 / u
        case "log1p":
            return 1 / (1 + u)
        case "xmlog1p":
            return u / (1 + u)
        case "sqrt":
            return 0.5 / y
        case "abs":
            return np.sign(u)
        case "sign":
            return 0.0 * u
        case "relu":
            return np.where(u > 0, 1.0, 0.0)
        case "softsign":
            return 1 / (1 + np.abs(u)) ** 2
        case "tanh":
            return 1 - y * y
        case "sinh":
            return np.cosh(u)
        case "cosh":
            return np.sinh(u)
        case "logcosh":
            return np.tanh(u)
        case "atan":
            return 1 / (1 + u * u)
        case "xmatan":
            return u * u / (1 + u * u)
        case "asinh":
            return 1 / np.sqrt(1 + u * u)
        case "erf" | "erfc":
            return (1 if name == "erf" else -1) * 2 / math.sqrt(math.pi) * np.exp(-u * u)
        case "ndtr":
            return np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        case "sigmoid":
            return y * call(_O, "sigmoid", -u)
        case "softplus" | "softplus0":
            return call(_O, "sigmoid", u)
        case "sin":
            return np.cos(u)
        case "cos":
            return -np.sin(u)
    raise AssertionError(name)


_ZERO = np.float64(0)


class Duals:
    """The namespace of `spec.evaluate` over pairs (value, derivative in x)."""

    pi = (Values.pi, _ZERO)

    @staticmethod
    def num(text: str) -> Dual:
        return np.float64(text), _ZERO

    @staticmethod
    def neg(a: Dual) -> Dual:
        return -a[0], -a[1]

    @staticmethod
    def add(a: Dual, b: Dual) -> Dual:
        return a[0] + b[0], a[1] + b[1]

    @staticmethod
    def sub(a: Dual, b: Dual) -> Dual:
        return a[0] - b[0], a[1] - b[1]

    @staticmethod
    def mul(a: Dual, b: Dual) -> Dual:
        return a[0] * b[0], _product(b[0], a[1]) + _product(a[0], b[1])

    @staticmethod
    def div(a: Dual, b: Dual) -> Dual:
        quotient = a[0] / b[0]
        return quotient, (a[1] - _product(quotient, b[1])) / b[0]

    @staticmethod
    def pow(a: Dual, b: Dual) -> Dual:
        value = np.power(a[0], b[0])
        slope = _product(b[0] * np.power(a[0], b[0] - 1), a[1])
        return value, slope + _product(value * np.log(a[0]), b[1])

    @staticmethod
    def call(name: str, *args: Dual) -> Dual:
        if name in ("min", "max"):
            (a, da), (b, db) = args
            first = a <= b if name == "min" else a >= b
            return np.where(first, a, b), np.where(first, da, db)
        ((u, du),) = args
        value = call(_O, name, u)
        return value, _product(_rule(name, u, value), du)

    @staticmethod
    def select(op: str, x: Dual, bound: Dual, then: Any, otherwise: Any) -> Dual:
        holds, (a, da), (b, db) = COMPARE[op](x[0], bound[0]), then(), otherwise()
        return np.where(holds, a, b), np.where(holds, da, db)


def _product(a: Any, slope: Any) -> Any:
    # the slope of a constant is 0 also beside an infinity
    return _ZERO if np.ndim(slope) == 0 and slope == 0 else a * slope


def values(node: Node, x: Any, params: Mapping[str, float]) -> Array:
    """The text at every x; nan or inf where it has no finite value."""
    x = np.asarray(x, np.float64)
    numbers = {k: np.float64(v) for k, v in params.items()}
    with np.errstate(all="ignore"):
        return np.broadcast_to(evaluate(node, Values, x, numbers), x.shape)


def with_slope(node: Node, x: Any, params: Mapping[str, float]) -> tuple[Array, Array]:
    """The text and its derivative at every x."""
    x = np.asarray(x, np.float64)
    numbers = {k: (np.float64(v), _ZERO) for k, v in params.items()}
    with np.errstate(all="ignore"):
        y, dy = evaluate(node, Duals, (x, np.ones_like(x)), numbers)
    return np.broadcast_to(y, x.shape), np.broadcast_to(dy, x.shape)
