"""Antiderivatives next to their anchor, where their terms cancel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
import torch
from mpmath import mp

import integrand as ig
from integrand.certificate.formats import format_of
from integrand.certificate.judgement import judge
from integrand.certificate.truth import Truth
from integrand.derivation.derive import derive_program
from integrand.derivation.lower import Lowering
from integrand.derivation.near import _Coefficients
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import Program, evaluate
from integrand.derivation.symbols import X, sigmoid
from integrand.derivation.truncation import without_series

SHIFTED = ig.Spec(
    name="shifted",
    gradient="a*sigmoid(b*x + c)",
    params={"a": ig.Param(0.8), "b": ig.Param(1.0, above=0), "c": ig.Param(0.5)},
)
NORMAL = np.array([s * 2.0**k for k in range(-120, 7) for s in (-1.0, 1.0)])


def _run(program: Program, bits: int, x: np.ndarray, values: dict[str, float], name: str):
    o = NumpyOps(bits)
    params = {k: o.array(v) for k, v in values.items()}
    with np.errstate(all="ignore"):
        return evaluate(program, o, o.array(x), params, [name])[0].astype(np.float64)


def _exact(x: float, a: float, b: float, c: float) -> float:
    with mp.workdps(120):
        a, b, c, x = map(mp.mpf, (a, b, c, x))
        return float(a / b * (mp.log1p(mp.exp(b * x + c)) - mp.log1p(mp.exp(c))))


@pytest.mark.parametrize("b", [1.0, 1e-3, 64.0])
@pytest.mark.parametrize("c", [0.5, 0.0, -1.5])
def test_a_shifted_primitive_keeps_its_digits_with_other_parameters(b: float, c: float) -> None:
    program = derive_program(SHIFTED).program
    assert not program.wide
    values = {"a": 0.75, "b": float(np.float32(b)), "c": c}
    x = NORMAL / np.float32(b)
    exact = np.array([_exact(v, **values) for v in x])
    got = _run(program, 32, x, values, "f")
    # the series begins at about b x = 2^-8: the formula has lost 8 bits there, and rounds 4 times
    usual = abs(exact) > 2.0**-120
    np.testing.assert_allclose(got[usual], exact[usual], rtol=2.0**-13)
    # without it nothing is left
    if c:
        plain = _run(without_series(program), 32, x, values, "f")
        assert np.max(np.abs(plain / exact - 1)[usual]) >= 1


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("c", [12.0, 42.0, 100.0, -42.0])
def test_where_the_series_would_mislead_the_formula_decides(c: float, bits: int) -> None:
    # saturated at the anchor, all that can be seen of sigmoid there is a constant
    values = {"a": 1.0, "b": 1.0, "c": c}
    x = np.array([-200.0, -c - 1.0, -c, -c + 1.0, -0.75 * c, -1.0, 1.0, 50.0])
    exact = np.array([_exact(v, **values) for v in x])
    got = _run(derive_program(SHIFTED).program, bits, x, values, "f")
    largest = abs(exact) + np.logaddexp(0, c) + 1
    assert np.all(abs(got - exact) <= largest * 2.0 ** (-20 if bits == 32 else -48))


def test_the_series_are_not_part_of_the_truth_that_judges_them() -> None:
    spec = ig.Spec(name="plain_shift", gradient="sigmoid(x + 1)")
    program = derive_program(spec).program
    assert without_series(program) != program
    x = 2.0**-70
    assert float(Truth(spec, program, {}).f(x)) == _exact(x, 1, 1, 1)
    first = repr(float(1 / (1 + np.exp(-1.0))))[:8]
    (place,) = (
        i for i, op in enumerate(program.ops) if op[0] == "const" and op[1].startswith(first)
    )
    ops = list(program.ops)
    ops[place] = ("const", "0.74")
    wrong = replace(program, ops=tuple(ops))
    assert float(Truth(spec, wrong, {}).f(x)) == _exact(x, 1, 1, 1)
    value, bound = Truth(spec, wrong, {}).fp64(np.array([x]), ["f"])["f"]
    # what the series leaves out is measured, so that the bound holds of a wrong one as well
    assert abs(value[0] - _exact(x, 1, 1, 1)) <= bound[0]
    assert bound[0] > 0.01 * value[0]
    points = np.float64([2.0**-70, 2.0**-20])
    for judged, holds in ((program, True), (wrong, False)):
        f = _run(judged, 32, points, {}, "f")
        verdict = judge(Truth(spec, judged, {}), format_of(torch.float32), "f", points, f)
        assert verdict.broken.any() != holds


@pytest.mark.parametrize(
    "gradient",
    [
        "tanh(2*x + 0.5) if x > 0 else 0.2*expm1(x + 1)",
        "sin(x - 1) - 0.3*x",
        "exp(-(x - 1)**2)",
    ],
)
def test_pieces_and_products_have_series_too(gradient: str) -> None:
    spec = ig.Spec(name="near", gradient=gradient)
    program = derive_program(spec).program
    assert without_series(program) != program
    x = NORMAL[abs(NORMAL) < 1]
    truth = Truth(spec, program, {})
    exact = np.array([float(truth.f_by_quadrature(v)) for v in x])
    usual = abs(exact) > 2.0**-120
    got = _run(program, 64 if program.wide else 32, x, {}, "f")
    np.testing.assert_allclose(got[usual], exact[usual], rtol=2.0**-13)


def test_no_series_is_used_that_cannot_tell_where_it_ends() -> None:
    slope = sigmoid(X**8 + 1)  # its coefficients after the first are 0 up to that of x^8
    with pytest.raises(TypeError, match="must tell where it ends"):
        _Coefficients(Lowering({}), sp.S.Zero).first(slope)


@pytest.mark.parametrize(
    "gradient", ["tanh(12*(x - 1))", "exp(-(x - 11)**2)", "sigmoid(40*(x + 2))"]
)
def test_steps_far_from_the_anchor_are_derived(gradient: str) -> None:
    spec = ig.Spec(name="step", gradient=gradient)
    derivation = derive_program(spec)
    assert "quadrature" not in " ".join(derivation.path)
    x = np.array([-3.0, -1.0, 0.5, 1.5, 12.0])
    exact = [float(Truth(spec, derivation.program, {}).f_by_quadrature(v)) for v in x]
    np.testing.assert_allclose(
        _run(derivation.program, 64, x, {}, "f"), exact, rtol=1e-12, atol=1e-14
    )


def test_a_formula_whose_terms_overflow_before_it_does_is_not_taken_as_it_stands() -> None:
    # f tends to 0.8 x: finite at -2e38, where log(cosh(2 x - 1)) is not
    spec = ig.Spec(name="far", gradient="-0.2 if x > 0 else -0.2 - tanh(2*x - 1)")
    far = np.array([-2e38])
    got = _run(derive_program(spec).program, 32, far, {}, "f")
    np.testing.assert_allclose(got, 0.8 * far, rtol=2.0**-20)
