from __future__ import annotations

import math

import mpmath
import pytest

from integrand.certificate.antiderivative import Antiderivative
from integrand.spec import Spec

POINTS = [-700.0, -3.3, -1e-9, 1e-30, 0.4, 2.0, 90.0, 5e5]


@pytest.mark.parametrize(
    ("gradient", "anchor", "integral"),
    [
        ("sigmoid(x)", ("-oo", 0), lambda x: mpmath.log1p(mpmath.exp(x))),
        ("tanh(x)", (0, 0), lambda x: mpmath.log(mpmath.cosh(x))),
        ("1/(1 + x**2)", ("oo", 1), lambda x: 1 - mpmath.atan2(1, x)),
        ("sqrt(abs(x))", (0, 0), lambda x: mpmath.sign(x) * abs(x) ** mpmath.mpf("1.5") / 1.5),
        ("2*x if x > 1 else 3", (1, 5), lambda x: x * x + 4 if x > 1 else 3 * x + 2),
    ],
    ids=["sigmoid", "tanh", "cauchy", "root", "jump"],
)
def test_it_is_the_known_integral(gradient, anchor, integral) -> None:  # type: ignore[no-untyped-def]
    f = Antiderivative(Spec(name="g", gradient=gradient, anchor=anchor), {})
    for x in POINTS:
        with mpmath.workdps(700):
            exact = integral(mpmath.mpf(x))
        assert abs(f(x) - exact) <= mpmath.mpf(10) ** -21 * max(abs(exact), 1 if x > 5 else 0)


def test_an_integral_that_does_not_settle_is_none() -> None:
    f = Antiderivative(Spec(name="g", gradient="sin(x**8)"), {})
    assert f(40.0) is None
    assert math.isclose(f(0.5), 0.5**9 / 9, rel_tol=1e-4)
