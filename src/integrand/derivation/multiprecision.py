"""Multi-precision evaluation of the derived SymPy expressions, by walking the tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

from integrand.derivation.budget import check
from integrand.derivation.primitives import PRIMITIVES

_NAMES = {"Abs": "abs"}


def evaluate_expr(expr: Any, env: Mapping[Any, Any], mp: Any) -> Any:
    """The mpf value of a real expression, for mpf values of its symbols."""
    if expr.is_Symbol:
        return env[expr]
    if expr.is_Rational:
        return mp.mpf(expr.p) / expr.q
    if expr.is_Float:
        return mp.mpf(expr._mpf_)
    if expr.is_Add:
        return mp.fsum(evaluate_expr(a, env, mp) for a in expr.args)
    if expr.is_Mul:
        return mp.fprod(evaluate_expr(a, env, mp) for a in expr.args)
    if expr.is_Pow:
        base, exponent = (evaluate_expr(a, env, mp) for a in expr.args)
        return mp.mpf(0) if base == 0 and exponent > 0 else base**exponent
    if isinstance(expr, sp.Piecewise):
        for value, condition in expr.args:
            if holds(condition, env, mp):
                return evaluate_expr(value, env, mp)
    if isinstance(expr, sp.Integral):
        return _quadrature(expr, env, mp)
    if isinstance(expr, sp.Function):
        args = [evaluate_expr(a, env, mp) for a in expr.args]
        own = getattr(type(expr), "meaning", None)
        name = type(expr).__name__
        if own is not None:
            return own(mp, *args)
        if name == "polylog":
            return mp.polylog(*args).real
        if name in ("minimum", "maximum"):
            return min(args) if name == "minimum" else max(args)
        return PRIMITIVES[_NAMES.get(name, name)].meaning(mp, *args)
    if expr.is_NumberSymbol:
        return mp.mpf(sp.N(expr, mp.dps + 5)._mpf_)
    if expr in (sp.oo, -sp.oo):
        return mp.inf if expr == sp.oo else -mp.inf
    raise TypeError(f"cannot evaluate {expr!r}")


def holds(condition: Any, env: Mapping[Any, Any], mp: Any) -> bool:
    """Whether a relation, or a conjunction of relations, is true."""
    if condition in (True, False, sp.true, sp.false):
        return bool(condition)
    if isinstance(condition, sp.And):
        return all(holds(c, env, mp) for c in condition.args)
    if isinstance(condition, sp.Or):
        return any(holds(c, env, mp) for c in condition.args)
    a, b = (evaluate_expr(c, env, mp) for c in condition.args)
    match condition.rel_op:
        case "<":
            return a < b
        case "<=":
            return a <= b
        case ">":
            return a > b
        case ">=":
            return a >= b
        case "==":
            return a == b
    return a != b


def _quadrature(expr: Any, env: Mapping[Any, Any], mp: Any) -> Any:
    """Tanh-sinh on octaves: the integral from 0 of an expression without closed form."""
    g, (t, _, upper) = expr.args
    end = evaluate_expr(upper, env, mp)
    cuts = [c for c in (mp.mpf(2) ** k for k in range(-2, 14)) if c < abs(end)]
    points = [mp.mpf(0), *(c if end > 0 else -c for c in cuts), end]

    def integrand(v: Any) -> Any:
        check()
        return evaluate_expr(g, {**env, t: v}, mp)

    return mp.quad(integrand, points)
