"""Where a Taylor series next to the anchor holds, and a program without such series."""

from __future__ import annotations

from collections.abc import Sequence

from integrand.derivation.program import Op, Program, without

# its last two terms, of its value: terms that fall evenly then leave 2^-53 of it after the last
NEGLIGIBLE = 2.0**-40
# its value, of what cancels: elsewhere the formula loses few digits
SMALL = 2.0**-6
# value and formula, of what cancels: the formula's own rounding in fp32 and in fp64
AGREE = {False: repr(2.0**-20), True: repr(2.0**-44)}


def without_series(program: Program) -> Program:
    """The program that computes every formula as it stands: in real arithmetic none is needed."""
    return without(program, _holds)


def _holds(ops: Sequence[Op], condition: Op) -> bool:
    """Whether a condition is that of a series: it ends with the agreement."""
    if condition[0] != "and" or ops[condition[2]][0] != "le":
        return False
    bound = ops[ops[condition[2]][2]]
    constants = [("const", agree) for agree in AGREE.values()]
    return bound[0] == "mul" and ops[bound[2]] in constants
