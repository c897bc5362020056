"""SymPy expressions as JSON and back, over a closed list of node kinds (nothing is evaluated)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

from integrand.derivation.symbols import FUNCTIONS, X

_NARY = {"Add": sp.Add, "Mul": sp.Mul, "Pow": sp.Pow, "And": sp.And}
_RELATIONS = {"<": sp.StrictLessThan, "<=": sp.LessThan, ">": sp.StrictGreaterThan,
              ">=": sp.GreaterThan}  # fmt: skip
_SPELLED = {"Abs": "abs", "minimum": "min", "maximum": "max"}
_ATOMS = {"pi": sp.pi, "E": sp.E, "oo": sp.oo, "-oo": -sp.oo, "true": sp.true, "false": sp.false}


def to_tree(expr: Any) -> Any:
    """Nested lists that `from_tree` turns back into the expression."""
    for name, atom in _ATOMS.items():
        if expr == atom:
            return name
    if expr.is_Symbol:
        return ["symbol", expr.name]
    if expr.is_Rational:
        return ["rational", str(expr.p), str(expr.q)]
    if expr.is_Float:
        return ["float", str(expr), expr._prec]
    if isinstance(expr, sp.Integral):
        g, (t, _, upper) = expr.args
        return ["integral", t.name, to_tree(g), to_tree(upper)]
    args = [to_tree(a) for a in expr.args]
    if isinstance(expr, sp.Piecewise):
        return ["piecewise", *([to_tree(v), to_tree(c)] for v, c in expr.args)]
    if expr.is_Relational:
        return ["relation", expr.rel_op, *args]
    kind = type(expr).__name__
    return [kind, *args] if kind in _NARY else ["call", _SPELLED.get(kind, kind), *args]


def from_tree(tree: Any, symbols: Mapping[str, Any], functions: Mapping[str, Any]) -> Any:
    """The expression of a tree; `functions` adds the tables' functions to the primitives."""
    if isinstance(tree, str):
        return _ATOMS[tree]
    kind, *rest = tree
    if kind == "symbol":
        return X if rest[0] == "x" else symbols[rest[0]]
    if kind == "rational":
        return sp.Rational(int(rest[0]), int(rest[1]))
    if kind == "float":
        return sp.Float(rest[0], precision=rest[1])
    if kind == "piecewise":
        pairs = [tuple(from_tree(t, symbols, functions) for t in pair) for pair in rest]
        return sp.Piecewise(*pairs, evaluate=False)
    if kind == "integral":
        t = sp.Symbol(rest[0], real=True)
        g, upper = (from_tree(r, {**symbols, rest[0]: t}, functions) for r in rest[1:])
        return sp.Integral(g, (t, 0, upper))
    if kind == "call":
        name, *args = rest
        function = sp.polylog if name == "polylog" else {**FUNCTIONS, **functions}[name]
        return function(*(from_tree(a, symbols, functions) for a in args))
    if kind == "relation":
        op, *args = rest
        return _RELATIONS[op](*(from_tree(a, symbols, functions) for a in args))
    return _NARY[kind](*(from_tree(a, symbols, functions) for a in rest))
