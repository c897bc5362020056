"""The scalar program in real arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.program import Op, Program, without
from integrand.derivation.table import Table


def at_finite_x(program: Program) -> Program:
    """The program without its answers to x = nan and x = +-inf, which are judged on their own."""
    return without(program, _never)


def _never(ops: Sequence[Op], condition: Op) -> bool:
    """Whether a condition holds at no finite x."""
    match condition:
        case ("call", "isnan" | "isinf", i):
            return ops[i] == ("x",)
        case ("le", i, j):
            return (ops[i], ops[j]) in ((("x",), ("const", "-inf")), (("const", "inf"), ("x",)))
    return False


def evaluate_real(program: Program, output: str, x: Any, params: Mapping[str, Any], mp: Any) -> Any:
    """One output of a program on mpf numbers; a `select` evaluates the branch in effect only."""
    known: dict[int, Any] = {}

    def at(i: int) -> Any:
        if i not in known:
            known[i] = compute(program.ops[i])
        return known[i]

    def compute(op: tuple[Any, ...]) -> Any:
        match op:
            case ("x",):
                return x
            case ("param", name):
                return params[name]
            case ("const", text):
                return mp.mpf(text)
            case ("call", ("isnan" | "isinf") as test, i):
                return getattr(mp, test)(at(i))
            case ("call", name, i):
                return PRIMITIVES[name].meaning(mp, at(i))
            case ("table", k, i):
                return table_value(program.tables[k], at(i), mp)
            case ("select", c, i, j):
                return at(i) if at(c) else at(j)
            case (name, i, j):
                return _BINARY[name](mp, at(i), at(j))
        raise AssertionError(op)

    return at(program.outputs[output])


_BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda mp, a, b: a + b,
    "sub": lambda mp, a, b: a - b,
    "mul": lambda mp, a, b: a * b,
    "div": lambda mp, a, b: a / b,
    "pow": lambda mp, a, b: mp.zero if a == 0 and b > 0 else a**b,
    "min": lambda mp, a, b: min(a, b),
    "max": lambda mp, a, b: max(a, b),
    "lt": lambda mp, a, b: a < b,
    "le": lambda mp, a, b: a <= b,
    "and": lambda mp, a, b: bool(a and b),
}


def table_value(table: Table, u: Any, mp: Any) -> Any:
    """A certified table at u, its polynomials in real arithmetic."""
    side, a = int(u >= 0), abs(u)

    def polynomial(coefficients: tuple[float, ...], t: Any) -> Any:
        total = mp.zero
        for c in reversed(coefficients):
            total = total * t + c
        return total

    if a < mp.mpf(2) ** table.lo:
        return u * polynomial(table.near[side], a / mp.mpf(2) ** table.lo)
    if a >= mp.mpf(2) ** table.hi:
        a2, a1, log, xlog = table.growth[side]
        growth = a2 * u * u + a1 * u + (log + xlog * u) * mp.log(a)
        return growth + polynomial(table.far[side], mp.mpf(2) ** table.hi / a)
    octave = int(mp.floor(mp.log(a, 2)))
    # a logarithm may round across the octave's edge
    octave += (a >= mp.mpf(2) ** (octave + 1)) - (a < mp.mpf(2) ** octave)
    place = (a / mp.mpf(2) ** octave - 1) * 2**table.split
    segment = int(mp.floor(place))
    index = (octave - table.lo) * 2**table.split + segment
    return polynomial(table.middle[side][index], 2 * (place - segment) - 1)
