"""Why a program costs more than one pass over memory, read off the program itself."""

from __future__ import annotations

from collections import Counter

from integrand.derivation.program import Program

# an elementwise kernel with this many transcendental calls is bound by arithmetic, not by memory
_MANY = 3
_EXPENSIVE = frozenset(
    [
        "exp",
        "expm1",
        "expm1mx",
        "log",
        "log1p",
        "xmlog1p",
        "xmatan",
        "sqrt",
        "tanh",
        "sinh",
        "cosh",
        "atan",
        "asinh",
        "erf",
        "erfc",
        "ndtr",
        "sigmoid",
        "softplus",
        "softplus0",
        "logcosh",
        "sin",
        "cos",
        "expm1_left",
        "expm1mx_left",
    ]
)


def causes(program: Program) -> list[str]:
    """What makes the forward pass slow: tables, fp64, pow, many transcendental functions."""
    uniform = program.uniform()
    ops = [program.ops[i] for i in program.needed(["f"]) if i not in uniform]
    kinds = Counter(op[1] if op[0] == "call" else op[0] for op in ops)
    calls = sum(n for kind, n in kinds.items() if kind in _EXPENSIVE)
    found = []
    if n := kinds["table"]:
        found.append(f"{n} table look-up{'s' if n > 1 else ''} per element")
    if program.wide:
        found.append("computed in fp64, because fp32 loses too much")
    if n := kinds["pow"]:
        found.append(f"{n} power{'s' if n > 1 else ''} with a real exponent")
    if calls >= _MANY:
        found.append(f"{calls} transcendental functions per element")
    if n := kinds["div"]:
        found.append(f"{n} division{'s' if n > 1 else ''}")
    return found or [f"{len(ops)} operations per element"]
