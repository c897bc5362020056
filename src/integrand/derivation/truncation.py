"""What a Taylor series next to the anchor leaves out, and a program without such series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from integrand.derivation.program import Op, Program

# its last two terms, of its value
NEGLIGIBLE = 2.0**-40
# what follows them, of its value; terms that fall evenly, every second perhaps 0, leave 2^-53
TRUNCATION = 2.0**-50
# from the anchor: farther out the coefficients of slowly varying functions may have underflowed
FURTHEST = 1024.0
# the largest power of ten that fp64 holds exactly; in a program it marks the series
LARGEST = 1e22


def without_series(program: Program) -> Program:
    """The program that computes every formula as it stands: in real arithmetic none is needed."""
    ops = list(program.ops)
    for i, op in enumerate(ops):
        if op[0] == "select" and _is_near(ops, ops[op[1]]):
            # min(a, a) is a, exactly
            ops[i] = ("min", op[3], op[3])
    return replace(program, ops=tuple(ops))


def _is_near(ops: Sequence[Op], condition: Op) -> bool:
    """Whether a condition is one of `series`, known by its limit."""
    if condition[0] != "and" or ops[condition[1]][0] != "le":
        return False
    slack = ops[ops[condition[1]][2]]
    return slack[0] == "min" and ops[slack[2]] == ("const", repr(LARGEST))
