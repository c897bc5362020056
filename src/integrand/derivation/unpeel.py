"""Solve f(x) = y for x on each piece of f, one operation after the other, and put it into df."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from mpmath import mp

from integrand.derivation.lower import Lowering
from integrand.derivation.multiprecision import evaluate_expr, holds
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.pieces import layouts
from integrand.derivation.program import evaluate
from integrand.derivation.stable import stabilise
from integrand.derivation.symbols import X, elementary, maximum, minimum, symbols
from integrand.errors import DerivationError
from integrand.spec import Spec

Y = sp.Symbol("y", real=True)
# outer function -> its inverse, in exp and log alone where they do, so that SymPy cancels them
_INVERSES: dict[str, Any] = {
    "exp": sp.log,
    "expm1": lambda v: sp.log(1 + v),
    "log": sp.exp,
    "log1p": lambda v: sp.exp(v) - 1,
    "tanh": lambda v: sp.log((1 + v) / (1 - v)) / 2,
    "sigmoid": lambda v: sp.log(v / (1 - v)),
    "softplus": lambda v: sp.log(sp.exp(v) - 1),
    "softplus0": lambda v: sp.log(2 * sp.exp(v) - 1),
    "atan": sp.tan,
    "sinh": sp.asinh,
    "asinh": sp.sinh,
}
_CLOSE = mp.mpf("1e-12")


def in_terms_of_output(spec: Spec, exprs: Mapping[str, Any], sign: int) -> dict[str, Any]:
    """df and the partials as expressions of `X`, which stands for y = f(x); f is monotone."""
    start = {s: mp.mpf(repr(spec.values()[s.name])) for s in symbols(spec).values()}
    points = _breakpoints(spec, exprs, start)
    numbers = [evaluate_expr(p, start, mp) for p in points]
    insides = _insides(numbers)
    pieces = [
        {name: _on(e, {X: inside, **start}) for name, e in exprs.items()} for inside in insides
    ]
    ends = [mp.mpf("-inf"), *numbers, mp.mpf("inf")]
    solved = [
        _solved(piece, inside, ends[i : i + 2], start)
        for i, (piece, inside) in enumerate(zip(pieces, insides, strict=True))
    ]
    for last, end in ((0, -sp.oo), (-1, sp.oo)):
        solved[last] = _clamped(solved[last], pieces[last]["f"], end, (end == sp.oo) == (sign > 0))
    cuts = []
    for i, point in enumerate(points):
        left, right = pieces[i], pieces[i + 1]
        at = sp.simplify(left["f"].subs(X, point))
        slope = evaluate_expr(exprs["df"], {X: numbers[i], **start}, mp)
        above, below = (right, left) if sign > 0 else (left, right)
        if above["df"] == 0:
            closed = True
        elif below["df"] == 0:
            closed = False
        else:
            closed = slope == evaluate_expr(above["df"], {X: numbers[i], **start}, mp)
        cuts.append(at <= X if closed else at < X)
    if sign < 0:
        solved.reverse()
        cuts.reverse()
    return {name: _joined([s[name] for s in solved], cuts) for name in exprs if name != "f"}


def verify_inverse(
    exprs: Mapping[str, Any], inverse: Mapping[str, Any], draws: Iterable[Mapping[str, float]]
) -> None:
    """Raise `DerivationError` unless inverse(f(x)) is df(x), and so for every partial."""
    syms = {s for e in exprs.values() for s in e.free_symbols} - {X}
    with mp.workdps(60):
        for values in draws:
            env = {s: mp.mpf(repr(values[s.name])) for s in syms}
            for k in (*range(-60, 61, 4), *range(-59, 60, 13)):
                x = mp.mpf(k) / 8 + mp.mpf("0.0137")
                y = evaluate_expr(exprs["f"], {X: x, **env}, mp)
                for name, e in inverse.items():
                    truth = evaluate_expr(exprs[name], {X: x, **env}, mp)
                    got = evaluate_expr(e, {X: y, **env}, mp)
                    if not abs(got - truth) <= _CLOSE * max(abs(truth), mp.mpf("1e-20")):
                        raise DerivationError(
                            f"its inverse could not be confirmed: {name} at x = {mp.nstr(x, 6)}"
                        )


def _breakpoints(spec: Spec, exprs: Mapping[str, Any], start: Mapping[Any, Any]) -> list[Any]:
    orders = layouts(spec, None)
    points = list(orders[0].points)
    for e in exprs.values():
        for piecewise in e.atoms(sp.Piecewise):
            for _, condition in piecewise.args:
                if condition in (True, sp.true):
                    continue
                gap = condition.lhs - condition.rhs if condition.is_Relational else sp.S.Zero
                slope = sp.diff(gap, X)
                if slope not in (1, -1):
                    raise DerivationError("the order of its breakpoints depends on its parameters")
                point = sp.expand(X - gap / slope)
                if not any(sp.simplify(point - p) == 0 for p in points):
                    points.append(point)
    if len(orders) != 1:
        raise DerivationError("the order of its breakpoints depends on its parameters")
    return sorted(points, key=lambda p: evaluate_expr(p, start, mp))


def _insides(numbers: list[Any]) -> list[Any]:
    if not numbers:
        return [mp.mpf("0.37")]
    middles = [a + (b - a) * mp.mpf("0.41") for a, b in pairwise(numbers)]
    return [numbers[0] - mp.mpf("0.37"), *middles, numbers[-1] + mp.mpf("0.37")]


def _on(expr: Any, env: Mapping[Any, Any]) -> Any:
    """The expression on the piece around a point: every kink and condition is decided."""
    if isinstance(expr, sp.Piecewise):
        return next(_on(v, env) for v, c in expr.args if holds(c, env, mp))
    if not expr.args:
        return expr
    args = [_on(a, env) for a in expr.args]
    name = type(expr).__name__
    if name in ("minimum", "maximum"):
        a, b = (evaluate_expr(u, env, mp) for u in args)
        return args[0] if (a < b) == (name == "minimum") else args[1]
    if name in ("Abs", "sign", "relu", "softsign") and X in args[0].free_symbols:
        u = args[0]
        positive = evaluate_expr(u, env, mp) > 0
        size = u if positive else -u
        return {
            "Abs": size,
            "sign": sp.S.One if positive else -sp.S.One,
            "relu": u if positive else sp.S.Zero,
            "softsign": u / (1 + size),
        }[name]
    return expr.func(*args)


def _solved(
    piece: Mapping[str, Any], inside: Any, ends: list[Any], start: Mapping[Any, Any]
) -> dict[str, Any]:
    """df and the partials of one piece in `X`, which stands for y."""
    names = [name for name in piece if name != "f"]
    if all(X not in piece[name].free_symbols for name in names):
        return {name: piece[name] for name in names}
    if X not in piece["f"].free_symbols:
        raise DerivationError("a partial depends on x where f is constant")
    x = _inverse(piece["f"], Y, {X: inside, **start})
    xs = _samples(inside, ends)
    return {name: _best(piece[name], x, piece["f"], xs, start) for name in names}


def _inverse(expr: Any, y: Any, at: Mapping[Any, Any]) -> Any:
    """x where expr(x) = y."""
    if expr == X:
        return y
    if expr.is_Add or expr.is_Mul:
        fixed, rest = expr.as_independent(X, as_Add=expr.is_Add)
        if fixed not in (0, 1):
            return _inverse(rest, y - fixed if expr.is_Add else y / fixed, at)
    if expr.is_Pow and X not in expr.exp.free_symbols:
        root = y ** (1 / expr.exp)
        negative = evaluate_expr(expr.base, at, mp) < 0
        if not negative:
            return _inverse(expr.base, root, at)
        if expr.exp.is_Integer and expr.exp % 2 == 0:
            return _inverse(expr.base, -root, at)
        if expr.exp.is_Integer and expr.exp > 0:
            return _inverse(expr.base, -((-y) ** (1 / expr.exp)), at)
    name = type(expr).__name__
    if name in _INVERSES:
        return _inverse(expr.args[0], _INVERSES[name](y), at)
    return _by_polynomial(expr, y, at)


def _by_polynomial(expr: Any, y: Any, at: Mapping[Any, Any]) -> Any:
    """x of a ratio of polynomials of degree up to 2; the root that lies in this piece."""
    numerator = sp.numer(sp.together(expr - Y))
    if numerator.is_polynomial(X) and 0 < sp.degree(numerator, X) <= 2:
        value = evaluate_expr(expr, at, mp)
        for root in sp.roots(sp.Poly(numerator, X)):
            if abs(evaluate_expr(root, {**at, Y: value}, mp) - at[X]) < mp.mpf("1e-9"):
                return root.subs(Y, y)
    raise DerivationError("its inverse has no closed form that was found")


def _samples(inside: Any, ends: list[Any]) -> list[Any]:
    """Points of a piece, close to its finite ends and far out."""
    scales = [mp.mpf(2) ** k for k in range(-12, 6)]
    points = [inside, *(e + s * v for e in ends if mp.isfinite(e) for v in scales for s in (1, -1))]
    points += [s * v for v in scales for s in (1, -1)]
    return [p for p in points if ends[0] < p < ends[1]]


def _best(expr: Any, x: Any, f: Any, xs: list[Any], start: Mapping[Any, Any]) -> Any:
    """The form of expr(x(y)), in `X`, that loses least in fp32, the shorter where they tie."""
    if X not in expr.free_symbols:
        return expr
    raw = elementary(expr).rewrite(sp.exp).subs(X, x)
    forms = [expr.subs(X, x), raw, sp.cancel(raw), sp.simplify(raw)]
    forms += [g(form) for form in forms[2:] for g in (sp.factor, sp.expand, sp.trigsimp)]
    with mp.workdps(40):
        ys = [float(evaluate_expr(f, {X: p, **start}, mp)) for p in xs]
    scored = [
        (_loss(form, ys, start), len(form.atoms(sp.Function)), sp.count_ops(form), k, form)
        for k, form in enumerate(stabilise(form).subs(Y, X) for form in forms)
    ]
    loss, *_, best = min(scored)
    if loss == mp.inf:
        raise DerivationError("its inverse uses functions that no primitive computes")
    return best


def _loss(form: Any, ys: list[float], start: Mapping[Any, Any]) -> float:
    """The largest relative error in fp32 at outputs ys, as a power of two."""
    lowering = Lowering({})
    try:
        out = lowering.expr(form, lowering.op("x"))
    except (TypeError, KeyError):
        return float("inf")
    o = NumpyOps(32)
    program = lowering.program(tuple(s.name for s in start), {"f": out}, wide=False)
    params = {s.name: o.array(float(v)) for s, v in start.items()}
    points = o.array(ys)
    with np.errstate(all="ignore"):
        (got,) = evaluate(program, o, points, params, ["f"])
    worst = 0.0
    with mp.workdps(60):
        env = {s: mp.mpf(float(params[s.name])) for s in start}
        for y, value in zip(points, np.broadcast_to(got, points.shape), strict=True):
            try:
                exact = evaluate_expr(form, {X: mp.mpf(float(y)), **env}, mp)
            except (TypeError, ValueError, ZeroDivisionError):
                continue
            if not isinstance(exact, mp.mpf) or not mp.isfinite(exact) or abs(exact) < 1e-30:
                continue
            if not np.isfinite(value):
                return 1e30
            worst = max(worst, float(abs(mp.mpf(float(value)) - exact) / abs(exact)))
    return float(np.exp2(np.ceil(np.log2(max(worst, 2.0**-22)))))


def _clamped(solved: dict[str, Any], f: Any, end: Any, upper: bool) -> dict[str, Any]:
    """An outermost piece with y kept inside the closure of its image: rounding may leave it."""
    edge = elementary(f).subs(X, end)
    if edge in (sp.nan, sp.zoo) or edge.has(sp.nan, sp.oo, -sp.oo, sp.zoo):
        edge = sp.limit(elementary(f), X, end)
    edge = sp.simplify(edge)
    if not edge.is_finite or X in edge.free_symbols:
        return solved
    inner = minimum(X, edge) if upper else maximum(X, edge)
    return {name: e.subs(X, inner) for name, e in solved.items()}


def _joined(values: list[Any], cuts: list[Any]) -> Any:
    """One expression of pieces in ascending y; equal neighbours share a piece."""
    merged, bounds = [values[0]], []
    for value, cut in zip(values[1:], cuts, strict=True):
        if value != merged[-1]:
            merged.append(value)
            bounds.append(cut)
    if not bounds:
        return merged[0]
    pairs = [(merged[i + 1], bounds[i]) for i in reversed(range(len(bounds)))]
    return sp.Piecewise(*pairs, (merged[0], True), evaluate=False)
