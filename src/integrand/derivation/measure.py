"""Is a closed form usable in floating point? Measured against multi-precision, not assumed."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpmath import mp

from integrand.derivation.lower import Lowering
from integrand.derivation.multiprecision import evaluate_expr
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import evaluate
from integrand.derivation.symbols import X

# half precision is decided by fp32 with 2^-9 (bf16) and 2^-12 (fp16) to spare
_RELATIVE = {32: 2.0**-15, 64: 1e-12}
_RANGE = {32: (1e-36, 1e38), 64: (1e-290, 1e300)}


def sweep(sides: tuple[bool, bool] = (True, True), fine: bool = False) -> np.ndarray:
    """Points over all scales, exact in fp32, denser where activations have their structure."""
    scales = np.logspace(-38, 38.5, 1231) if fine else np.logspace(-30, 30, 61)
    magnitudes = np.concatenate([scales, np.logspace(-2, 2.2, 900 if fine else 90)])
    signs = [s for s, used in zip((-1.0, 1.0), sides, strict=True) if used]
    points = np.sort(np.concatenate([s * magnitudes for s in signs]))
    return points.astype(np.float32).astype(np.float64)


def accurate(expr: Any, sides: tuple[bool, bool]) -> bool:
    """Whether a parameter-free expression of x keeps its relative accuracy in fp32 and fp64."""
    lowering = Lowering({})
    try:
        out = lowering.expr(expr, lowering.op("x"))
    except TypeError:
        return False
    program = lowering.program((), {"f": out}, wide=False)
    points = sweep(sides)
    try:
        with mp.workdps(150):
            truth = [evaluate_expr(expr, {X: mp.mpf(float(p))}, mp) for p in points]
    except (TypeError, ValueError, ZeroDivisionError):
        return False
    for bits, relative in _RELATIVE.items():
        o = NumpyOps(bits)
        with np.errstate(all="ignore"):
            (values,) = evaluate(program, o, o.array(points), {}, ["f"])
        low, high = _RANGE[bits]
        for value, exact in zip(np.broadcast_to(values, points.shape), truth, strict=True):
            if low < abs(exact) < high and not abs(mp.mpf(float(value)) - exact) <= relative * abs(
                exact
            ):
                return False
    return True
