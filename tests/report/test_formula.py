"""Formulas as MathML."""

import xml.etree.ElementTree as ET

from integrand.report.formula import VALUE, declaration, letters, math, partial
from integrand.spec import Spec, names, parse, row


def test_every_row_becomes_well_formed_mathml_with_one_case_per_piece():
    for name in names():
        spec = row(name).spec
        tree = ET.fromstring(declaration(spec).replace("&#x2062;", ""))
        pieces = (spec.gradient or spec.function or "").count(" if ")
        # a chain of n conditions has n + 1 cases; nested conditions have a table each
        assert len(tree.findall(".//mtr")) >= pieces + (1 if pieces else 0), name


def test_operators_keep_their_grouping():
    shown = math(parse("(x + 1)*(x - 2) - (x - 3)", ()), VALUE)
    text = "".join(ET.fromstring(shown.replace("&#x2062;", "·")).itertext())
    assert text == "f(x)=(x+1)·(x−2)−(x−3)"


def test_negation_under_a_power_keeps_its_parentheses():
    shown = math(parse("(-x)**2 - exp(-x**2)", ()), VALUE)
    text = "".join(ET.fromstring(shown).itertext())
    assert text == "f(x)=(−x)2−e−x2"


def test_text_of_a_spec_cannot_bring_markup():
    spec = Spec(name="two", gradient="1 if x < 0 else 2 + x")
    assert "<mo>&lt;</mo>" in declaration(spec)


def test_parameter_names_get_greek_letters_and_an_index():
    assert letters("alpha_p") == "α_p" and letters("beta") == "β" and letters("a") == "a"


def test_a_partial_names_its_parameter():
    assert "".join(ET.fromstring(partial("alpha_n")).itertext()) == "∂f∂αn"
