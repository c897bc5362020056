from __future__ import annotations

import numpy as np

from integrand.certificate.largest_term import largest_terms
from integrand.derivation.program import Program


def terms(*ops: tuple[object, ...], x: float) -> float:
    program = Program((), ops, {"f": len(ops) - 1})
    return float(largest_terms(program, np.array([x]), {}, ["f"])["f"][0])


def test_a_sum_has_its_largest_addend() -> None:
    ops = (("x",), ("mul", 0, 0), ("const", "3"), ("mul", 2, 0), ("sub", 1, 3))
    # x^2 - 3x is 0 at 3, and 9 - 9
    assert terms(*ops, x=3.0) == 9


def test_a_product_scales_the_terms_of_its_factors() -> None:
    ops = (("x",), ("const", "1"), ("sub", 0, 1), ("mul", 2, 0))
    assert terms(*ops, x=1.0) == 1
    assert terms(*ops, x=-8.0) == 72


def test_a_branch_has_its_own_terms() -> None:
    ops = (("x",), ("const", "0"), ("lt", 1, 0), ("const", "7"), ("sub", 0, 3), ("select", 2, 4, 0))
    assert terms(*ops, x=6.0) == 7
    assert terms(*ops, x=-2.0) == 2


def test_a_cancelled_argument_carries_its_terms_through_a_function() -> None:
    ops = (("x",), ("const", "5"), ("sub", 0, 1), ("call", "tanh", 2))
    # tanh has slope 1 where x - 5 vanishes
    assert abs(terms(*ops, x=5.0) - 5) < 1e-4
    assert abs(terms(*ops, x=9.0) - np.tanh(4.0)) < 1e-12
