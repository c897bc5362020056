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
    (f("softplus(x)"), f("log(1 + exp(x))")),
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
    # equal but for some values of a parameter: small, large, of the other sign
    (f("max(a*x, relu(x))", a=Param(1)), f("a*relu(x)", a=Param(1))),
    (f("max(a*x, relu(x))", a=Param(1, above=0)), f("a*relu(x)", a=Param(1, above=0))),
    (f("max(a*x, cosh(x))", a=Param(1)), f("cosh(x) + a", a=Param(1))),
    (f("max(relu(x), a)", a=Param(1)), f("max(x, a)", a=Param(1))),
    (f("abs(a)*x", a=Param(1)), f("a*x", a=Param(1))),
    # equal but for a distant piece
    (g("x if x < 9 else 0"), g("x if x < 9 else 1")),
    (g("x if x > -9 else 0"), g("x if x > -9 else 1")),
    # with a pole at 0, and without
    (f("x + 1/x - 1/x"), f("x")),
    (f("x + 0*log(x)"), f("x")),
    (f("x + 0*sqrt(x)"), f("x")),
    (f("x + 0*(x - 3)**0.5"), f("x")),
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


def test_what_is_no_activation_stands_for_none_that_is() -> None:
    overflows, sigmoid = f("sigmoid(-x)*exp(x)"), f("sigmoid(x)")
    assert same(signature(overflows), signature(sigmoid))
    assert merged(sigmoid, overflows) and not merged(overflows, sigmoid)
    seen = Seen()
    seen.add("overflows", signature(overflows))
    assert seen.find(signature(f("exp(x)*sigmoid(-x)"))) == "overflows"
    seen.add("sigmoid", signature(sigmoid))
    assert seen.find(signature(f("1 - sigmoid(-x)"))) == "sigmoid"
    # by text too: the rewritings cancel what overflows
    assert canonical(f("x + exp(x) - exp(x)"))[0] == canonical(f("x"))[0]
    assert not merged(f("x + exp(x) - exp(x)"), f("x"))


@pytest.mark.parametrize(
    "text",
    [
        " + ".join(f"(x if x > {i} else {i}*tanh(x))" for i in range(14)),
        "tanh((1 + " * 7 + "x" + ")**4)" * 7,
    ],
)
def test_a_text_that_would_grow_keeps_its_own(text: str) -> None:
    assert len(canonical(g(text))[0]) < 20 * len(text)
    assert merged(g(text), g(text + " + 0"))


def test_parameters_that_bound_others_come_in_the_order_of_those() -> None:
    low, high = Param(1, above="l"), Param(2, above="h")
    a = g("p*x + q*tanh(x)", p=low, q=high, l=Param(0.3), h=Param(0.5))
    b = g("p*x + q*tanh(x)", h=Param(0.5), l=Param(0.3), p=low, q=high)
    assert canonical(a)[0] == canonical(b)[0]
    assert merged(a, b)
