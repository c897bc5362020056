"""Values and slopes of parsed texts against the exact ones and central differences."""

import numpy as np
import pytest
from mpmath import mp

from integrand.derivation.exact import exact
from integrand.search.cuts import cuts
from integrand.search.forward import values, with_slope
from integrand.spec import FUNCTIONS, parse

POINTS = np.array([-2.3, -0.7, -0.31, 0.17, 0.45, 0.9, 3.1])


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_and_its_slope(name: str) -> None:
    positive = name in ("log", "sqrt")
    u = "(x**2 + 0.3)" if positive else "(0.2*x)" if name in ("log1p", "xmlog1p") else "(x - 0.1)"
    arguments = ", ".join([u, "sin(x)"][: FUNCTIONS[name]])
    node = parse(f"{name}({arguments})*x")
    y, dy = with_slope(node, POINTS, {})
    assert np.array_equal(y, values(node, POINTS, {}))
    with mp.workdps(40):
        for x, value, slope in zip(POINTS, y, dy, strict=True):
            assert value == pytest.approx(float(exact(node, mp.mpf(x), {}, mp)), rel=1e-13)
            true = mp.diff(lambda t: exact(node, t, {}, mp), mp.mpf(x))
            assert slope == pytest.approx(float(true), rel=1e-12, abs=1e-14)


def test_arithmetic_powers_pieces_and_parameters() -> None:
    text = "a*x**3/(1 + x**2) - 2**(0.3*x) + (x**2 + 1)**a if x > -a else -pi*x + a*exp(a)"
    node = parse(text, ["a"])
    y, dy = with_slope(node, POINTS, {"a": 0.5})
    with mp.workdps(40):
        a = {"a": mp.mpf("0.5")}
        for x, value, slope in zip(POINTS, y, dy, strict=True):
            true = mp.diff(lambda t: exact(node, t, a, mp), mp.mpf(x))
            assert value == pytest.approx(float(exact(node, mp.mpf(x), a, mp)), rel=1e-13)
            assert slope == pytest.approx(float(true), rel=1e-12)


def test_a_constant_has_slope_0_beside_an_infinity() -> None:
    assert with_slope(parse("x + exp(2)*exp(700)*1e50*(1 - 1)"), 1.0, {})[1] == 1


def test_cuts_are_bounds_kinks_and_poles() -> None:
    node = parse("max(x, tanh(2*x) + 1)/(x**2 - 2) if x > c else abs(x - 3)", ["c"])
    found = cuts(node, {"c": -0.25})
    crossing = [c for c in found if abs(c - np.tanh(2 * c) - 1) < 1e-14]
    assert len(crossing) == 1
    expected = sorted([-0.25, 3.0, 2**0.5, -(2**0.5), *crossing])
    assert found == pytest.approx(tuple(expected), abs=1e-14)


def test_a_stretch_of_zeros_has_two_ends() -> None:
    # relu(x - 1) is 0 up to 1: the outer kink sits at both ends of the stretch, not inside
    assert len(cuts(parse("abs(relu(x - 1))"), {})) <= 3
