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
    for i, a in enumerate(terms):
        coefficient, rest = a.as_coeff_Mul()
        # c exp(u) - c = c expm1(u); exp(u) alone would cancel near u = 0
        if isinstance(rest, sp.exp) and -coefficient in terms and not rest.args[0].is_number:
            terms.remove(-coefficient)
            terms[terms.index(a)] = coefficient * expm1(rest.args[0])
            return sp.Add(*terms)
        # c - c tanh(u)^2 = 4 c sigmoid(2u) sigmoid(-2u)
        if (
            rest.is_Pow and rest.exp == 2 and isinstance(rest.base, sp.tanh)
            and -coefficient in terms
        ):  # fmt: skip
            u = rest.base.args[0]
            terms.remove(-coefficient)
            terms[i if terms[i : i + 1] == [a] else terms.index(a)] = (
                -4 * coefficient * sigmoid(2 * u) * sigmoid(-2 * u)
            )
            return sp.Add(*terms)
        # 1 - sigmoid(u) = sigmoid(-u)
        if isinstance(rest, sigmoid) and -coefficient in terms:
            terms.remove(-coefficient)
            terms[terms.index(a)] = -coefficient * sigmoid(-rest.args[0])
            return sp.Add(*terms)
    return expr
