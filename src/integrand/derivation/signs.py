"""Which ops of a program are never positive, and the cheaper primitives that this allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from integrand.derivation.primitives import LEFT, PRIMITIVES
from integrand.derivation.program import Op, Program

# (never positive, never negative); nan is neither
Sign = tuple[bool, bool]
_POSITIVE = ("abs", "exp", "cosh", "sigmoid", "softplus", "ndtr", "sqrt", "relu", "erfc")


def one_sided(program: Program) -> Program:
    """The program with `expm1_left` for `expm1` and the like, where the argument is never positive.

    Signs come from constants, branches and functions alone: a caller may pass any parameter value.
    """
    signs: list[Sign] = []
    ops = list(program.ops)
    for i, op in enumerate(ops):
        signs.append(_sign(ops, signs, op))
        if op[0] == "call" and op[1] + LEFT in PRIMITIVES and signs[op[2]][0]:
            ops[i] = ("call", op[1] + LEFT, op[2])
    return replace(program, ops=tuple(ops))


def _sign(ops: Sequence[Op], signs: Sequence[Sign], op: Op) -> Sign:
    match op:
        case ("const", text):
            return not float(text) > 0, not float(text) < 0
        case ("call", name, _):
            return False, name in _POSITIVE
        case ("mul" | "div", i, j):
            (below, above), (under, over) = signs[i], signs[j]
            return (below and over) or (above and under), (below and under) or (above and over)
        case ("add", i, j):
            return signs[i][0] and signs[j][0], signs[i][1] and signs[j][1]
        case ("sub", i, j):
            return signs[i][0] and signs[j][1], signs[i][1] and signs[j][0]
        case ("min", i, j):
            return signs[i][0] or signs[j][0], signs[i][1] and signs[j][1]
        case ("max", i, j):
            return signs[i][0] and signs[j][0], signs[i][1] or signs[j][1]
        case ("select", c, i, j):
            yes, no = _branch(ops, signs, ops[c], i, True), _branch(ops, signs, ops[c], j, False)
            return yes[0] and no[0], yes[1] and no[1]
    return False, False


def _branch(ops: Sequence[Op], signs: Sequence[Sign], condition: Op, i: int, holds: bool) -> Sign:
    """The sign of op i where the condition holds, or where it does not."""
    below, above = signs[i]
    if condition[0] in ("lt", "le"):
        _, low, high = condition
        if i == high and signs[low][1 if holds else 0]:
            return (below, True) if holds else (True, above)
        if i == low and signs[high][0 if holds else 1]:
            return (True, above) if holds else (below, True)
    return below, above
