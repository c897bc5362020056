"""Expressions as scalar programs."""

from __future__ import annotations

import numpy as np

from integrand.derivation.lower import Lowering
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import evaluate
from integrand.derivation.symbols import X


def test_a_polynomial_takes_a_product_per_degree_at_most_and_no_power_overflows_alone() -> None:
    lowering = Lowering({})
    out = lowering.expr(X**4 - 3 * X**3 + 2 * X, lowering.op("x"))
    program = lowering.program((), {"f": out}, wide=False)
    assert sum(op[0] == "mul" for op in program.ops) == 3
    x = np.array([0.5, -2.0, 3.0], np.float32)
    (y,) = evaluate(program, NumpyOps(32), x, {}, ["f"])
    np.testing.assert_array_equal(y, [0.6875, 36.0, 6.0])
    with np.errstate(over="ignore"):
        # 3 x^3 is infinite and so is x^4: apart, their difference would be nan
        (far,) = evaluate(program, NumpyOps(32), np.array([1e20], np.float32), {}, ["f"])
    assert far == np.inf
