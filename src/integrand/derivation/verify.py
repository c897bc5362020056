"""Check a derivation against the declared text in multi-precision, independently of SymPy.

f against quadrature of the declared gradient, df against the declared gradient (or against finite
differences of the declared function), partials against finite differences in the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mpmath import mp

from integrand.derivation.compose import Composed
from integrand.derivation.exact import breakpoints, exact, integrals
from integrand.derivation.multiprecision import evaluate_expr
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.pieces import draws
from integrand.derivation.program import Program, evaluate
from integrand.derivation.symbols import X, symbols
from integrand.errors import DerivationError
from integrand.spec import Spec

TOLERANCE = mp.mpf("1e-12")
_POINTS = ("-6.1", "-0.37", "0.9", "2.6", "-23.7", "-1.3", "-0.004", "0.003", "0.21", "17.3")


def verify(spec: Spec, composed: Composed) -> dict[str, float]:
    """The largest relative deviation of f, df and the partials; `DerivationError` beyond 1e-12."""
    worst = {"f": mp.mpf(0), "df": mp.mpf(0), "partials": mp.mpf(0)}
    with mp.workdps(24):
        for take, values in zip((len(_POINTS), 3), draws(spec), strict=False):
            params = {k: mp.mpf(repr(v)) for k, v in values.items()}
            cuts = breakpoints(spec.node, params, mp)
            points = [mp.mpf(p) for p in _POINTS[:take]]
            points += [c + s * mp.mpf("0.05") for c in cuts for s in (-1, 1)]
            points = [x for x in points if all(abs(x - c) > mp.mpf("1e-3") for c in cuts)]
            points = _finite(spec, points, params)
            _check(spec, composed, points, params, worst)
    for part, error in worst.items():
        if not error <= TOLERANCE:
            raise DerivationError(
                f"the derived {part} of '{spec.name}' deviates from the declared"
                f" '{spec.gradient or spec.function}' by {mp.nstr(error, 3)} (allowed: 1e-12):"
                " the integral is not usable; please report it"
            )
    return {k: float(v) for k, v in worst.items()}


def declared(spec: Spec, points: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """f from the declared text alone: the function itself, or quadrature of the gradient."""
    if spec.kind == "function":
        return [exact(spec.node, x, params, mp) for x in points]
    return integrals(spec, points, params, mp)


def _finite(spec: Spec, points: list[Any], params: Mapping[str, Any]) -> list[Any]:
    """Without the points where a gradient is beyond fp64, and quadrature of it without end."""
    if spec.kind == "function":
        return points
    return [x for x in points if abs(exact(spec.node, x, params, mp)) < 1e300]


def _check(
    spec: Spec, composed: Composed, points: list[Any], params: dict[str, Any], worst: dict[str, Any]
) -> None:
    env = {s: params[name] for name, s in symbols(spec).items()}
    truth = declared(spec, points, params)
    if spec.kind == "gradient":
        slopes = [exact(spec.node, x, params, mp) for x in points]
    else:
        slopes = _difference(lambda h: declared(spec, [x + h for x in points], params), "1e-5")
    for x, f, slope in zip(points, truth, slopes, strict=True):
        at = {X: x, **env}
        _note(worst, "f", evaluate_expr(composed.f, at, mp) - f, max(abs(f), abs(x)))
        _note(worst, "df", evaluate_expr(composed.df, at, mp) - slope, max(abs(slope), 1))
    # finite differences multiply the quadratures: a few points near the structure must do
    points = [x for x in points if abs(x) < 4]
    for name, partial in composed.partials.items():
        moved = _difference(
            lambda h, name=name: declared(spec, points, {**params, name: params[name] + h}), "1e-5"
        )
        for x, slope in zip(points, moved, strict=True):
            value = evaluate_expr(partial, {X: x, **env}, mp)
            _note(worst, "partials", value - slope, max(abs(value), abs(x), 1))


def _difference(curve: Callable[[Any], list[Any]], step: str) -> list[Any]:
    """Central differences with one Richardson step: error of order step^4."""
    coarse, fine = (
        [(a - b) / (2 * h) for a, b in zip(curve(h), curve(-h), strict=True)]
        for h in (mp.mpf(step), mp.mpf(step) / 2)
    )
    return [(4 * f - c) / 3 for c, f in zip(coarse, fine, strict=True)]


def _note(worst: dict[str, Any], part: str, error: Any, size: Any) -> None:
    ratio = abs(error) / size
    worst[part] = max(worst[part], ratio) if mp.isfinite(ratio) else mp.inf


def verify_program(spec: Spec, program: Program, quadrature: bool) -> float:
    """The largest deviation of the fp64 program's f from the declared text, relative.

    Closed forms and tables must reach 1e-12, fixed-node quadrature 1e-9.
    """
    o = NumpyOps(64)
    worst = 0.0
    # quadrature of an oscillation over thousands of periods is no truth
    oscillates = any(op[0] == "call" and op[1] in ("sin", "cos") for op in program.ops)
    far = () if oscillates else (2**14, -(2**14))
    with mp.workdps(24):
        for take, values in zip((len(_POINTS), 4), draws(spec), strict=False):
            params = {k: mp.mpf(repr(v)) for k, v in values.items()}
            points = [mp.mpf(float(p)) for p in (*_POINTS[:take], *far)]
            points = _finite(spec, points, params)
            with np.errstate(all="ignore"):
                (got,) = evaluate(
                    program,
                    o,
                    o.array([float(p) for p in points]),
                    {k: o.array(v) for k, v in values.items()},
                    ["f"],
                )
            got = np.broadcast_to(got, (len(points),))
            truth = declared(spec, points, params)
            for x, y, t in zip(points, got, truth, strict=True):
                if abs(t) < 1e300:
                    worst = max(worst, float(abs(mp.mpf(float(y)) - t) / max(abs(t), abs(x))))
    allowed = 1e-9 if quadrature else 1e-12
    if not worst <= allowed:
        cure = (
            f"put a number in place of one of the parameters {', '.join(spec.params)} (one of them"
            " cannot be separated from x), or declare function="
            if spec.params
            else "declare function= instead"
        )
        raise DerivationError(
            f"'{spec.gradient}' has no closed integral that was found, and quadrature at fixed"
            f" nodes is off by {worst:.1e} (allowed: {allowed:.0e}): {cure}"
        )
    return worst
