"""Every row's text against its published formula (see conftest.py)."""

from types import SimpleNamespace

import pytest
from mpmath import mp

from integrand.spec import evaluate, names, row

FUNCTIONS = [n for n in names() if row(n).spec.kind == "function"]
GRADIENTS = [n for n in names() if row(n).spec.kind == "gradient"]

DIRECT = ["exp", "expm1", "log", "log1p", "sqrt", "sign", "tanh", "sin", "cos", "atan", "erf"]
CALLS = {name: getattr(mp, name) for name in DIRECT} | {
    "abs": abs,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "softplus": lambda x: mp.log(1 + mp.exp(x)),
    "ndtr": lambda x: (1 + mp.erf(x / mp.sqrt(2))) / 2,
    "xmatan": lambda x: x - mp.atan(x),
    "softsign": lambda x: x / (1 + abs(x)),
}


class Text:
    """A namespace of `spec.evaluate` in mpmath alone, not the project's table of primitives."""

    pi = mp.pi
    num = staticmethod(mp.mpf)

    def __getattr__(self, op):
        return {
            "neg": lambda a: -a,
            "add": lambda a, b: a + b,
            "sub": lambda a, b: a - b,
            "mul": lambda a, b: a * b,
            "div": lambda a, b: a / b,
            "pow": lambda a, b: a**b,
        }[op]

    def call(self, name, *args):
        return CALLS[name](*args)

    def select(self, op, x, bound, then, otherwise):
        holds = {"lt": x < bound, "le": x <= bound, "gt": x > bound, "ge": x >= bound}[op]
        return then() if holds else otherwise()


def text_value(name, x, values):
    return evaluate(row(name).spec.node, Text(), x, values)


def test_every_row_has_a_published_formula(published):
    assert set(published) == set(names())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_text_is_the_published_function(name, published, cases):
    # quadrature of a Gaussian costs digits; everything else is direct evaluation
    tolerance = mp.mpf(10) ** (-30 if name == "sau" else -45)
    for x, values, p in cases(name, 9 if name == "sau" else 60):
        truth = published[name](x, p)
        # terms as large as x and 1 may cancel in either form
        assert abs(text_value(name, x, values) - truth) <= tolerance * max(1, abs(x), abs(truth))


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_text_is_the_derivative_of_the_published_function(name, published, cases):
    # these two are defined by quadrature, which is slow to differentiate
    points = 2 if name in ("integral_mish", "integral_elephant8") else 12
    for x, values, p in cases(name, points):
        slope = mp.diff(lambda t, p=p: published[name](t, p), x)
        error = abs(text_value(name, x, values) - slope)
        assert error <= mp.mpf("1e-30") * max(1, abs(x), abs(slope)) ** 2


@pytest.mark.parametrize("name", GRADIENTS)
def test_anchor_is_that_of_the_published_function(name, published):
    spec = row(name).spec
    values = {k: mp.mpf(p.init) for k, p in spec.params.items()}
    point, value = spec.anchor
    at = mp.mpf({"-oo": -1e5, "oo": 1e5}.get(point, point))
    assert abs(published[name](at, SimpleNamespace(**values)) - value) < mp.mpf("1e-45")


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_at_zero_is_the_limit_from_both_sides(name):
    spec = row(name).spec
    values = {k: mp.mpf(p.init) for k, p in spec.params.items()}
    at_zero = text_value(name, mp.mpf(0), values)
    for side in (mp.mpf("1e-30"), mp.mpf("-1e-30")):
        # the largest second derivative at 0 in the catalogue is below 100
        assert abs(text_value(name, side, values) - at_zero) < mp.mpf("1e-28")
