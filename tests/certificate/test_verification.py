from __future__ import annotations

from dataclasses import replace

import integrand as ig
from integrand.certificate import verify

from .conftest import PROGRAM, HandMade


def test_the_derived_program_is_the_integral_of_its_text(xielu: HandMade) -> None:
    for act in (xielu, ig.activation("xielu"), ig.activation("silu")):
        result = verify(act)
        assert result.ok and result.worst < 1e-20 and result.points >= 36 and not result.skipped


def test_a_relative_error_of_1e_10_fails() -> None:
    factor, product = len(PROGRAM.ops), len(PROGRAM.ops) + 1
    ops = (*PROGRAM.ops, ("const", "1.0000000001"), ("mul", PROGRAM.outputs["f"], factor))
    program = replace(PROGRAM, ops=ops, outputs={**PROGRAM.outputs, "f": product})
    result = verify(HandMade(program=program))
    assert not result.ok and result.worst > 1e-11
