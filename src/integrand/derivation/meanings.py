"""Exact values of the primitives: `(mp, x) -> value`, mp an mpmath context, x one of its reals.

Right to the context's precision for every real x, however small; the limit at an infinity; nan
outside the domain and for nan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Meaning = Callable[[Any, Any], Any]


def _guarded(f: Meaning, order: int) -> Meaning:
    """f evaluated with digits to spare for a difference that vanishes like x^order at 0."""

    def meaning(mp: Any, x: Any) -> Any:
        if x == 0:
            return x * 0
        extra = (order - 1) * max(0, -int(mp.mag(x))) + 20 if mp.isfinite(x) else 0
        with mp.workprec(mp.prec + extra):
            return f(mp, x)

    return meaning


def _on(domain: Callable[[Any], bool], f: Meaning) -> Meaning:
    return lambda mp, x: f(mp, x) if domain(x) else mp.nan


def _limits(low: Any, high: Any, f: Meaning) -> Meaning:
    """f, with its limits at -inf and inf given."""

    def meaning(mp: Any, x: Any) -> Any:
        if mp.isinf(x):
            return mp.mpf(high if x > 0 else low)
        return f(mp, x)

    return meaning


def _softplus(mp: Any, x: Any) -> Any:
    return max(x, mp.zero) + mp.log1p(mp.exp(-abs(x)))


def _logcosh(mp: Any, x: Any) -> Any:
    a = abs(x)
    return a + mp.log1p(mp.exp(-2 * a)) - mp.ln2


def _sigmoid(mp: Any, x: Any) -> Any:
    return mp.exp(min(x, mp.zero)) / (1 + mp.exp(-abs(x)))


def _erfc(mp: Any, x: Any) -> Any:
    if abs(x) < 1e30:
        return mp.erfc(x)
    # mpmath's own overflows at 1e150; the next term is below 1e-120 of these
    return mp.exp(-x * x) / (x * mp.sqrt(mp.pi)) * (1 - 1 / (2 * x * x)) if x > 0 else mp.mpf(2)


def _ndtr(mp: Any, x: Any) -> Any:
    return _erfc(mp, -x / mp.sqrt(2)) / 2


def _sign(mp: Any, x: Any) -> Any:
    return mp.mpf((x > 0) - (x < 0))


_TABLE: dict[str, Meaning] = {
    "exp": lambda mp, x: mp.exp(x),
    "log": _on(lambda x: x >= 0, lambda mp, x: mp.log(x) if x else -mp.inf),
    "sqrt": _on(lambda x: x >= 0, lambda mp, x: mp.sqrt(x)),
    "abs": lambda mp, x: abs(x),
    "rint": _limits("-inf", "inf", lambda mp, x: mp.nint(x)),
    "sin": _limits("nan", "nan", lambda mp, x: mp.sin(x)),
    "cos": _limits("nan", "nan", lambda mp, x: mp.cos(x)),
    "expm1": _limits(-1, "inf", _guarded(lambda mp, x: mp.expm1(x), 1)),
    "log1p": _on(
        lambda x: x >= -1,
        _limits("nan", "inf", lambda mp, x: mp.log1p(x) if x > -1 else -mp.inf),
    ),
    "tanh": _limits(-1, 1, lambda mp, x: mp.tanh(x)),
    "sinh": _limits("-inf", "inf", lambda mp, x: mp.sinh(x)),
    "cosh": _limits("inf", "inf", lambda mp, x: mp.cosh(x)),
    "atan": lambda mp, x: mp.atan(x),
    "asinh": _limits("-inf", "inf", _guarded(lambda mp, x: mp.asinh(x), 2)),
    "erf": _limits(-1, 1, lambda mp, x: mp.erf(x)),
    "erfc": _limits(2, 0, _erfc),
    "sigmoid": _limits(0, 1, _sigmoid),
    "softplus": _limits(0, "inf", _softplus),
    "softsign": _limits(-1, 1, lambda mp, x: x / (1 + abs(x))),
    "relu": lambda mp, x: max(x, mp.zero),
    "sign": _sign,
    "ndtr": _limits(0, 1, _ndtr),
    "logcosh": _limits("inf", "inf", _guarded(_logcosh, 3)),
    "expm1mx": _limits("inf", "inf", _guarded(lambda mp, x: mp.expm1(x) - x, 3)),
    "xmlog1p": _on(
        lambda x: x >= -1,
        _limits("nan", "inf", _guarded(lambda mp, x: x - mp.log1p(x) if x > -1 else mp.inf, 3)),
    ),
    "xmatan": _limits("-inf", "inf", _guarded(lambda mp, x: x - mp.atan(x), 3)),
    "softplus0": lambda mp, x: (
        -mp.ln2
        if x == -mp.inf
        else _guarded(lambda mp, x: _softplus(mp, x) - mp.ln2, 2)(mp, x)
        if mp.isfinite(x)
        else x
    ),
}


def _nan_first(f: Meaning) -> Meaning:
    return lambda mp, x: mp.nan if mp.isnan(x) else f(mp, x)


MEANINGS: dict[str, Meaning] = {name: _nan_first(f) for name, f in _TABLE.items()}
