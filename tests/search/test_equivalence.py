"""Planted equivalents are found, near misses are not."""

import pytest

from integrand.search.canonical import canonical
from integrand.search.equivalence import Seen, same, signature
from integrand.spec import Param, Spec

A = {"a": Param(0.8, above=0)}


def g(text: str, **params: Param) -> Spec:
    return Spec(name="g", gradient=text, params=params)


def f(text: str, **params: Param) -> Spec:
    return Spec(name="f", function=text, params=params)


def merged(a: Spec, b: Spec) -> bool:
    seen = Seen()
    seen.add("first", signature(a))
    return seen.find(signature(b)) == "first"


BY_TEXT = [
    (g("2*x + 1 if x > 0 else 0.5*expm1(x) + 1"), g("1 + expm1(x)/2 if x <= 0 else 1 + x*2")),
    (g("tanh(x) + x"), g("3*x - 3*tanh(-x)")),
    (g("a*x + b", a=Param(1, above=0), b=Param(2)), g("q + p*x", p=Param(1, above=0), q=Param(2))),
    (f("x*sigmoid(x) + 4"), f("sigmoid(x)*x*0.5 - 1")),
    (g("(x + 1)**2"), g("x**2 + 2*x + 1")),
    (g("x if x > 0 else x"), g("x")),
    (f("max(x, sin(x))"), f("max(sin(x), x) + 2")),
    (
        g("a + b if x > a else b", a=Param(1), b=Param(2)),
        g("c if x <= d else c + d", c=Param(2), d=Param(1)),
    ),
]
BY_OUTPUTS = [
    (g("expm1(x) + 1 if x < 0 else 1"), g("exp(x) if x < 0 else 1")),
    (g("tanh(x/2)"), g("2*sigmoid(x) - 1")),
    (g("relu(x) - relu(-x)"), g("x")),
    (f("x*ndtr(x)"), f("x*(1 + erf(x/2**0.5))/2 + 0.25")),
    (f("log(1 + exp(x))"), f("softplus(x)")),
    # the same family with another parametrisation of its scale
    (g("2*a*x + tanh(x)", a=Param(0.4, above=0)), g("a*x + tanh(x)", a=Param(0.8, above=0))),
]  # fmt: skip
APART = [
    (g("x + 0.8"), g("x + 0.8001")),
    (g("x"), g("-x")),
    (g("tanh(x) + x"), g("tanh(x) + 2*x")),
    (g("1 if x > 0 else 0"), g("1 if x > 0.01 else 0")),
    # equal at the initial values alone
    (g("a*tanh(x) + x", **A), g("0.8*tanh(x) + x")),
    (g("a*tanh(x) + a*x", **A), g("a*tanh(x) + b*x", **A, b=Param(0.8, above=0))),
    (g("a*tanh(x) + x", **A), g("a*tanh(x) + x", a=Param(0.8))),
    (g("a*tanh(x) + x", **A), g("a*tanh(x) + x", a=Param(0.8, above=0, trainable=False))),
    # one has no value at 0, the other has
    (f("x*x/x"), f("x")),
    # a gradient and a function of the same text
    (g("tanh(x)"), f("tanh(x)")),
]


@pytest.mark.parametrize(("a", "b"), BY_TEXT)
def test_rewritings_have_one_text(a: Spec, b: Spec) -> None:
    assert canonical(a)[0] == canonical(b)[0]
    assert merged(a, b)


@pytest.mark.parametrize(("a", "b"), BY_OUTPUTS)
def test_identities_are_found_by_outputs(a: Spec, b: Spec) -> None:
    assert canonical(a)[0] != canonical(b)[0]
    assert merged(a, b)


@pytest.mark.parametrize(("a", "b"), BY_TEXT + BY_OUTPUTS)
def test_outputs_alone_find_them_all(a: Spec, b: Spec) -> None:
    assert same(signature(a), signature(b))


@pytest.mark.parametrize(("a", "b"), APART)
def test_near_misses_stay_apart(a: Spec, b: Spec) -> None:
    assert not merged(a, b) and not merged(b, a)


def test_the_tolerance_is_that_of_rounding() -> None:
    assert 0 < signature(g("tanh(x) + x")).tolerance < 1e-13
    # a small difference that rounding cannot make
    assert not merged(g("x + 1e-11*tanh(x)"), g("x"))


def test_what_is_not_finite_is_compared_by_text_alone() -> None:
    assert signature(g("exp(exp(9*x))")).outputs is None
    assert merged(g("exp(exp(9*x))"), g("2*exp(exp(x*9))"))
