from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrand.errors import SpecError
from integrand.spec import FUNCTIONS, evaluate, parse


class Decimals:
    """Exact arithmetic as a namespace: what a parsed text means, without floating point."""

    pi = Decimal("3.14159")
    num = staticmethod(Decimal)
    neg = staticmethod(lambda a: -a)
    add = staticmethod(lambda a, b: a + b)
    sub = staticmethod(lambda a, b: a - b)
    mul = staticmethod(lambda a, b: a * b)
    div = staticmethod(lambda a, b: a / b)
    pow = staticmethod(lambda a, b: a**b)

    @staticmethod
    def select(op, x, bound, then, otherwise):
        holds = {"lt": x < bound, "le": x <= bound, "gt": x > bound, "ge": x >= bound}[op]
        return then() if holds else otherwise()


def value(text, x, **params):
    return evaluate(parse(text, params), Decimals(), Decimal(x), params)


@pytest.mark.parametrize(
    ("text", "x", "expected"),
    [
        ("1 + 2*x**2 - x/4", "2", "8.5"),
        ("-x**2", "3", "-9"),
        ("2 if x > 0 else 3", "0", "3"),
        ("2 if x >= 0 else 3", "0", "2"),
        ("2 if 0 < x else 3", "0", "3"),
        ("1 if x < -1 else 2 if x <= 1 else 3", "1", "2"),
        ("0.1 + 0.2", "0", "0.3"),
        ("1_000 * x", "1", "1000"),
    ],
)
def test_text_means_what_it_says(text, x, expected):
    assert value(text, x) == Decimal(expected)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "x.__class__",
        "(lambda: 0)()",
        "[x for x in (1,)]",
        "open('/etc/passwd')",
        "exp",
        "'text'",
        "True",
        "x if x else 1",
        "x > 0",
        "1 if 0 < x < 1 else 2",
        "1 if x > x else 2",
        "f'{x}'",
        "a",
        "exp(x, x)",
        "exp(x=1)",
        "min(x)",
        "9**9**9",
        "x**1000",
        "(9**64)**64",
        "1e999",
        "1j",
        "x @ x",
        "x and 1",
        "not x",
        "x := 3",
        "",
        "   ",
        "1 +",
        "x; x",
        "(" * 300 + "x" + ")" * 300,
        "+".join(["x"] * 3000),
        "exp(" * 200 + "x" + ")" * 200,
        "\x00",
    ],
)
def test_everything_outside_the_grammar_is_one_sentence(text):
    with pytest.raises(SpecError) as error:
        parse(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=60))
def test_no_text_does_anything_but_parse_or_raise(text):
    try:
        parse(text)
    except SpecError:
        return


def test_an_undeclared_parameter_is_named():
    with pytest.raises(SpecError, match=r"'alpha' .* not a declared parameter .*declared: beta"):
        parse("alpha*x + beta", ["beta"])


def test_every_function_is_accepted_with_its_number_of_arguments():
    for name, count in FUNCTIONS.items():
        assert parse(f"{name}({', '.join(['x'] * count)})")[1] == name
