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
    # exp(a u) / (1 + exp(u))^n: overflows to inf/inf; sigmoid(-u) = 1/(1+exp(u))
    powers = expr.as_powers_dict()
    for base, exponent in powers.items():
        u = _one_plus_exp(base)
        if u is None or not (exponent.is_Integer and exponent < 0):
            continue
        count = int(-exponent)
        rest = expr / base**exponent
        total = sum((a.args[0] for a in sp.Mul.make_args(rest) if isinstance(a, sp.exp)), sp.S.Zero)
        ratio = sp.simplify(total / u)
        taken = int(ratio) if ratio.is_Integer and 0 < ratio <= count else 0
        return rest / sp.exp(taken * u) * sigmoid(u) ** taken * sigmoid(-u) ** (count - taken)
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
