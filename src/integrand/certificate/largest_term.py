"""The largest term of a formula at x: the scale below which its value near a root is rounding.

A sum's largest term is the largest addend in size; it passes through products, quotients, the
branch in effect of a select, and (times the slope) through a function whose argument cancelled.
`f = a x^2 + b x` near its root -b/a therefore has the largest term b^2/a, whatever remains of f.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from integrand.derivation.numeric import NumpyOps
from integrand.derivation.primitives import call
from integrand.derivation.program import BINARY, Program

Array = np.ndarray[Any, Any]


def largest_terms(
    program: Program, x: Array, params: Mapping[str, float], outputs: Iterable[str]
) -> dict[str, Array]:
    """Per output, the largest term at every x (fp64)."""
    outputs = list(outputs)
    o = NumpyOps(64)
    value: dict[int, Any] = {}
    term: dict[int, Any] = {}
    with np.errstate(all="ignore"):
        for i in program.needed(outputs):
            value[i], term[i] = _step(program, program.ops[i], value, term, o, x, params)
        return {name: np.broadcast_to(term[program.outputs[name]], x.shape) for name in outputs}


def _step(
    program: Program,
    op: tuple[Any, ...],
    v: dict[int, Any],
    t: dict[int, Any],
    o: Any,
    x: Array,
    params: Mapping[str, float],
) -> tuple[Any, Any]:
    match op:
        case ("x",):
            return x, np.abs(x)
        case ("param", name):
            return np.float64(params[name]), abs(np.float64(params[name]))
        case ("const", text):
            return np.float64(text), abs(np.float64(text))
        case ("call", ("isnan" | "isinf") as test, i):
            result = getattr(o, test)(v[i])
            return result, np.zeros(np.shape(result))
        case ("call", name, i):
            result = call(o, name, v[i])
            return result, _through(lambda u: call(o, name, u), v[i], t[i], result)
        case ("table", k, i):
            table = program.tables[k]
            result = o.table(table, v[i])
            return result, _through(lambda u: o.table(table, u), v[i], t[i], result)
        case ("select", c, i, j):
            return o.where(v[c], v[i], v[j]), np.where(v[c], t[i], t[j])
        case ("min", i, j):
            return o.minimum(v[i], v[j]), np.where(v[i] <= v[j], t[i], t[j])
        case ("max", i, j):
            return o.maximum(v[i], v[j]), np.where(v[i] >= v[j], t[i], t[j])
        case ("pow", i, j):
            result = o.pow(v[i], v[j])
            return result, _through(lambda u: o.pow(u, v[j]), v[i], t[i], result)
        case (name, i, j):
            a, b = v[i], v[j]
            result = BINARY[name](a, b)
            if name in ("add", "sub"):
                return result, np.maximum(t[i], t[j])
            if name == "mul":
                return result, np.maximum(_product(t[i], b), _product(t[j], a))
            if name == "div":
                return result, np.maximum(t[i] / np.abs(b), np.abs(result) * (t[j] / np.abs(b)))
            return result, np.abs(result)
    raise AssertionError(op)


def _product(term: Any, factor: Any) -> Any:
    return np.where(factor == 0, 0.0, term * np.abs(factor))


def _through(function: Any, u: Any, term: Any, result: Any) -> Any:
    # only a cancelled argument carries its terms on: a mere large one is exact
    cancelled = term > 2 * np.abs(u)
    if not np.any(cancelled):
        return np.abs(result)
    step = term * 2.0**-20
    slope = np.maximum(np.abs(function(u + step) - result), np.abs(function(u - step) - result))
    carried = slope * 2.0**20
    return np.where(
        cancelled & np.isfinite(carried), np.fmax(carried, np.abs(result)), np.abs(result)
    )
