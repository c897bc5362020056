"""Expressions as scalar programs."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from integrand.derivation.derive import derive_program
from integrand.derivation.lower import Lowering
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import evaluate
from integrand.derivation.symbols import X
from integrand.spec import Param, Spec


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


def test_constants_and_parameters_cancel_before_x_comes_in() -> None:
    lowering, a, b = Lowering({}), sp.Symbol("a"), sp.Symbol("b")
    out = lowering.expr(sp.tanh(X) + a - b, lowering.op("x"))
    program = lowering.program(("a", "b"), {"f": out}, wide=False)
    params = {name: np.array(1.0, np.float32) for name in ("a", "b")}
    (y,) = evaluate(program, NumpyOps(32), np.array([1e-20], np.float32), params, ["f"])
    assert y == np.float32(1e-20)


@pytest.mark.parametrize(
    "declared",
    [{"gradient": "sigmoid(3*x)"}, {"gradient": "tanh(-5*x)"}, {"function": "softsign(x)"}],
)
def test_overflow_inside_a_formula_needs_no_fp64(declared: dict[str, str]) -> None:
    program = derive_program(Spec(name="s", **declared)).program
    assert not program.wide
    top = float(np.finfo(np.float32).max)
    x = np.array(
        [s * m for s in (1, -1) for m in (1e18, 3e19, 2.0**115, 2.0**117, 1e38, top / 2.5)]
    )
    with np.errstate(over="ignore"):
        narrow, exact = (
            evaluate(program, NumpyOps(bits), NumpyOps(bits).array(x), {}, ["f", "df"])
            for bits in (32, 64)
        )
    for got, want in zip(narrow, exact, strict=True):
        np.testing.assert_allclose(np.broadcast_to(got, x.shape), want, rtol=1e-5, atol=2.0**-136)


@pytest.mark.parametrize(
    ("gradient", "init", "k"), [("sigmoid(k*x)", 3.0, 1e4), ("tanh(x/k)", 0.33, 1e-4)]
)
def test_x_scaled_by_a_parameter_of_any_size_overflows_in_no_function(
    gradient: str, init: float, k: float
) -> None:
    spec = Spec(name="s", gradient=gradient, params={"k": Param(init, above=0)})
    program = derive_program(spec).program
    ops = NumpyOps(64 if program.wide else 32)
    x = np.array([s * m for s in (1, -1) for m in (3.5e34, 8e34, 1.5e38)])
    with np.errstate(over="ignore"):
        f, df = evaluate(program, ops, ops.array(x), {"k": ops.array(k)}, ["f", "df"])
    rising = gradient.startswith("sigmoid")
    np.testing.assert_allclose(f, np.maximum(x, 0) if rising else np.abs(x), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(df, x > 0 if rising else np.sign(x), rtol=1e-5)
