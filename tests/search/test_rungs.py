"""The two cheapest rungs: published constants, closed forms, and refusals."""

import math

import numpy as np
import pytest
from mpmath import mp

import integrand as ig
from integrand.derivation.exact import integral
from integrand.search.candidate import Candidate
from integrand.search.cost import cost, saved_bytes, weight
from integrand.search.gaussian import gaussian
from integrand.search.gaussian_rung import measured
from integrand.search.profile import profile
from integrand.search.validity import validity
from integrand.spec import Spec, names, row


def function(text: str) -> Spec:
    return Spec(name="f", function=text)


def gradient(text: str) -> Spec:
    return Spec(name="g", gradient=text)


@pytest.mark.parametrize(
    ("name", "variance", "weight", "bias"),
    [
        # arXiv:2106.10165, section 5.3.3
        ("silu", 14.32017362, 1.98800468, 0.55514317),
        ("gelu", (math.sqrt(17) + 3) / 2, 1.98305826, 0.17292239),
    ],
)
def test_half_stable_constants(name: str, variance: float, weight: float, bias: float) -> None:
    found = gaussian(profile(row(name).spec))
    assert found.universality == "half-stable"
    assert (found.variance, found.weight, found.bias) == pytest.approx(
        (variance, weight, bias), abs=1e-8
    )


@pytest.mark.parametrize("name", ["elu", "hardswish", "snake"])
def test_moments_and_gains_are_those_of_the_derivation(name: str) -> None:
    p = profile(row(name).spec)
    found, signals = validity(p), gaussian(p)
    exact = ig.activation(name).properties
    assert found.square == pytest.approx(exact.second_moment, rel=1e-12)
    assert signals.gain == pytest.approx(exact.second_moment**-0.5, rel=1e-12)
    assert signals.universality == exact.criticality.universality


def test_a_gradient_is_integrated_without_a_closed_form() -> None:
    spec = Spec(
        name="g",
        gradient="a*sin(3*x)*sigmoid(x) if x > c else expm1(x)/(1 + x**2)",
        params={"a": ig.Param(0.7), "c": ig.Param(-0.4)},
        anchor=(1, 0.25),
    )
    p = profile(spec)
    points = np.array([-11.0, -0.9, 0.05, 1.0, 6.5])
    with mp.workdps(30):
        params = {"a": mp.mpf(0.7), "c": mp.mpf(-0.4)}
        truth = [float(integral(spec, mp.mpf(x), params, mp)) for x in points]
    assert p.value(points) == pytest.approx(truth, rel=1e-11, abs=1e-11)
    nodes = np.searchsorted(p.x, points[:4])
    assert p.f[nodes] == pytest.approx(p.value(p.x[nodes]), rel=1e-13, abs=1e-13)


def test_xielu_in_numbers() -> None:
    p = profile(row("xielu").spec)
    found = validity(p)
    z, e1 = math.sqrt(2 / math.pi), math.exp(0.5) * math.erfc(1 / math.sqrt(2)) / 2
    e2 = math.exp(2) * math.erfc(math.sqrt(2)) / 2
    # E g^2 from the two half-normal moments of (1.6 x + 0.5)^2 and (0.8 expm1(x) + 0.5)^2
    right = 1.6**2 / 2 + 1.6 * 0.5 * z + 0.5**2 / 2
    left = 0.8**2 * (e2 - 2 * e1 + 0.5) + 0.8 * (e1 - 0.5) + 0.5**2 / 2
    assert found.slope_square == pytest.approx(right + left, rel=1e-13)
    assert found.steepest == math.inf and not found.monotone and found.flat == 0


def test_relu_in_numbers() -> None:
    found = validity(profile(gradient("1 if x > 0 else 0")))
    assert found.ok and found.monotone
    assert (found.mean, found.square, found.slope_square) == pytest.approx(
        (1 / math.sqrt(2 * math.pi), 0.5, 0.5), rel=1e-14
    )
    assert (found.flat, found.steepest) == (pytest.approx(0.5, rel=1e-14), 1.0)
    assert gaussian(profile(gradient("1 if x > 0 else 0"))).universality == "scale-invariant"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # E f^2 = 3 K^2, E f'^2 = 4 K
        (
            "x*abs(x)",
            {
                "gain": 3**-0.5, "backward_gain": 1 / 2, "chi": 4 / 3, "chi_parallel": 2.0,
                "score": math.log(4 / 3) + math.log(2), "mean": 0.0, "active": 1.0,
            },
        ),
        ("relu(x - 1)", {"active": math.erfc(1 / math.sqrt(2)) / 2}),
        ("relu(x)", {"gain": 2**0.5, "chi": 1.0, "chi_parallel": 1.0, "score": 0.0}),
    ],
)  # fmt: skip
def test_the_numbers_of_the_first_rung(text: str, expected: dict[str, float]) -> None:
    found = measured(Candidate(function(text), ()))
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (gradient("exp(x)"), "finite"),
        (function("x**9"), "half precision"),
        (gradient("1/(x - 0.3333)"), "pole"),
        (gradient("1/(x - 1.2345)**2"), "half precision"),
        (gradient("1/(x*x - 1.42*x + 0.5041)"), "half precision"),
        (gradient("(x - 1.2345)**-2"), "half precision"),
        (function("x/(x + 1e-3)"), "finite"),
        (gradient("sin(x)/x"), "finite"),
        (function("log(abs(x))"), "finite"),
        (function("sqrt(x)"), "finite"),
        (function("sqrt(abs(x))"), "finite"),
        (function("x + sign(x - 0.7)"), "jumps"),
        (function("x if x > 1 else x - 0.001"), "jumps"),
        (gradient("0*x"), "constant"),
        (function("x - x + 3"), "constant"),
    ],
)
def test_what_is_no_activation_is_refused(spec: Spec, word: str) -> None:
    assert word in validity(profile(spec)).reason


@pytest.mark.parametrize(
    "text", ["abs(x)", "max(x, sin(x))", "x*abs(x)", "relu(x) if x > 0 else 0.1*x", "x/(1 + x**2)"]
)
def test_kinks_are_no_jumps(text: str) -> None:
    assert validity(profile(function(text))).ok


def test_rung_0_admits_the_catalogue() -> None:
    refused = {n: validity(profile(row(n).spec)).reason for n in names()}
    assert not {n: reason for n, reason in refused.items() if reason}


def test_cost_ranks_by_arithmetic_and_counts_a_part_once() -> None:
    assert weight("sigmoid") < weight("erf") and weight("relu") < weight("exp")
    assert cost(function("relu(x)")) < cost(function("x*sigmoid(x)")) < cost(function("x*ndtr(x)"))
    assert cost(function("tanh(x)*tanh(x)")) == cost(function("tanh(x)")) + 1
    assert cost(gradient("1 + 2*3")) == 0


def test_saved_bytes() -> None:
    assert saved_bytes(profile(gradient("1 if x > 0 else 0"))) == 1 / 8
    assert saved_bytes(profile(gradient("2 if x > 1 else 1 if x > 0 else 0.5"))) == 2 / 8
    assert saved_bytes(profile(gradient("x if x > 0 else 0"))) == 2


def test_a_limit_as_anchor() -> None:
    spec = Spec(name="g", gradient="sigmoid(x)", anchor=("-oo", 0))
    p = profile(spec)
    assert p.f == pytest.approx(np.logaddexp(0, p.x), rel=1e-12, abs=1e-14)
