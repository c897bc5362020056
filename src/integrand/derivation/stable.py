"""Rewrites of what people write into forms that neither overflow nor cancel."""

from __future__ import annotations

from typing import Any

import sympy as sp

from integrand.derivation.symbols import expm1, log1p, logcosh, sigmoid, softplus


def stabilise(expr: Any) -> Any:
    """The same function with exp, log and tanh patterns replaced by stable primitives."""
    previous = None
    while expr != previous:
        previous = expr
        expr = expr.replace(lambda e: e.is_Mul or e.is_Pow, _ratio)
        expr = expr.replace(lambda e: isinstance(e, sp.log), _log)
        expr = expr.replace(lambda e: e.is_Add, _sum)
    return expr


def _one_plus_exp(base: Any) -> Any | None:
    """u where base is 1 + exp(u)."""
    if base.is_Add and len(base.args) == 2 and sp.S.One in base.args:
        other = base - 1
        if isinstance(other, sp.exp):
            return other.args[0]
    return None


def _ratio(expr: Any) -> Any:
    # exp(u)/(1 + exp(u)) overflows to inf/inf; sigmoid(u) = exp(u) sigmoid(-u) does not
    if expr.is_Pow:
        u = _one_plus_exp(expr.base)
        negative = expr.exp.is_Integer and expr.exp < 0
        return expr if u is None or not negative else sigmoid(-u) ** -expr.exp
    for factor in expr.args:
        if not isinstance(factor, sp.exp):
            continue
        for other in expr.args:
            base, n = other.as_base_exp()
            if isinstance(base, sigmoid) and n.is_Integer and n > 0:
                v = -base.args[0]
                times = sp.cancel(factor.args[0] / v)
                if times.is_Integer and 0 < times <= n:
                    return expr / factor / base**times * sigmoid(v) ** times
    return expr


def _log(expr: Any) -> Any:
    u = expr.args[0]
    if (inner := _one_plus_exp(u)) is not None:
        return softplus(inner)
    if isinstance(u, sp.cosh):
        return logcosh(u.args[0])
    if u.is_Add and sp.S.One in u.args:
        return log1p(u - 1)
    return expr


def _sum(expr: Any) -> Any:
    terms = list(expr.args)
    for i, term in enumerate(terms):
        for factor in sp.Mul.make_args(term):
            c = term / factor
            if -c not in terms or c.has(sp.exp):
                continue
            if isinstance(factor, sp.exp):  # c exp(u) - c cancels near u = 0
                new = c * expm1(factor.args[0])
            elif factor.is_Pow and factor.exp == 2 and isinstance(factor.base, sp.tanh):
                u = factor.base.args[0]  # c tanh(u)^2 - c cancels where tanh saturates
                new = -4 * c * sigmoid(2 * u) * sigmoid(-2 * u)
            elif isinstance(factor, sigmoid):  # c sigmoid(u) - c cancels for large u
                new = -c * sigmoid(-factor.args[0])
            else:
                continue
            rest = [t for j, t in enumerate(terms) if j != i]
            rest.remove(-c)
            return sp.Add(new, *rest)
    return expr
