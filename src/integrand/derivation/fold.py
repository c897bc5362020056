"""Parameter values folded into a program: the same function, with nothing left to set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mpmath

from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.program import BINARY, Op, Program, operands

# far more digits than a double, so that what is folded is rounded once
_CONTEXT = mpmath.MPContext()
_CONTEXT.dps = 40


def folded(program: Program, values: Mapping[str, float]) -> Program:
    """The program without parameters: f and df alone, what depends on values alone as constants.

    Constant sub-expressions are computed in multi-precision and rounded to double once; a select
    whose condition is known keeps the branch taken.
    """
    numbers: dict[int, Any] = {}
    writer = _Writer()
    places: dict[int, int] = {}
    outputs = {name: i for name, i in program.outputs.items() if name in ("f", "df")}
    for i in program.needed(outputs):
        op = program.ops[i]
        if op[0] == "param":
            numbers[i] = _CONTEXT.mpf(float(values[op[1]]))
        elif op[0] == "const":
            numbers[i] = _CONTEXT.mpf(op[1])
        elif op[0] not in ("x", "table") and all(j in numbers for j in operands(op)):
            numbers[i] = _number(op, [numbers[j] for j in operands(op)])
        elif op[0] == "select" and op[1] in numbers:
            taken = op[2] if numbers[op[1]] else op[3]
            (numbers if taken in numbers else places)[i] = (
                numbers[taken] if taken in numbers else places[taken]
            )
        elif op[0] == "and" and any(j in numbers for j in op[1:]):
            known, other = op[1:] if op[1] in numbers else reversed(op[1:])
            if numbers[known]:
                places[i] = places[other]
            else:
                numbers[i] = False
        else:
            places[i] = writer.op(op, [_place(j, numbers, places, writer) for j in operands(op)])
    ends = {name: _place(i, numbers, places, writer) for name, i in outputs.items()}
    return replace(program, params=(), ops=tuple(writer.ops), outputs=ends)


class _Writer:
    """New ops, each written once."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._numbers: dict[Op, int] = {}

    def op(self, op: Op, args: list[int]) -> int:
        head = op[: len(op) - len(args)]
        new = (*head, *args)
        if new not in self._numbers:
            self._numbers[new] = len(self.ops)
            self.ops.append(new)
        return self._numbers[new]


def _place(i: int, numbers: dict[int, Any], places: dict[int, int], writer: _Writer) -> int:
    """The new number of an op, a constant where it has become one."""
    if i in numbers:
        return writer.op(("const", repr(float(numbers[i]))), [])
    return places[i]


def _number(op: Op, args: list[Any]) -> Any:
    """The value of an op on numbers."""
    match op[0]:
        case "call":
            return PRIMITIVES[op[1]].meaning(_CONTEXT, *args)
        case "select":
            return args[1] if args[0] else args[2]
        case "min":
            return min(args)
        case "max":
            return max(args)
        case "pow":
            return _power(*args)
        case "div":
            # as in floating point: a branch that is not taken may divide by 0
            return args[0] / args[1] if args[1] else args[0] * _CONTEXT.inf
        case name:
            return BINARY[name](*args)


def _power(base: Any, exponent: Any) -> Any:
    if not base and exponent < 0:
        return _CONTEXT.inf
    return _CONTEXT.nan if base < 0 and exponent != int(exponent) else base**exponent
