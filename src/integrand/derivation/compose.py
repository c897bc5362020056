"""f, its gradient and its partials as piecewise SymPy expressions in stable form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp
from mpmath import mp

from integrand.derivation.integrate import Integrals
from integrand.derivation.multiprecision import evaluate_expr
from integrand.derivation.pieces import Layout, draws, layouts
from integrand.derivation.stable import stabilise
from integrand.derivation.symbols import X, expm1, expm1mx, softplus, softplus0, symbols, to_sympy
from integrand.errors import DerivationError
from integrand.spec import Spec


@dataclass(frozen=True)
class Composed:
    """The derived expressions, and how the integral was found."""

    f: Any
    df: Any
    partials: dict[str, Any]
    integrals: Integrals


def compose(spec: Spec, seconds: float) -> Composed:
    """Derive f and the partials of a gradient spec, or the gradient of a function spec."""
    syms = symbols(spec)
    integrals = Integrals(seconds=seconds)
    declared = _stable_pieces(to_sympy(spec.node, syms))
    if spec.kind == "gradient":
        f, df = _integrated(spec, integrals), declared
        if f.has(sp.nan, sp.zoo, sp.oo, sp.I):
            raise DerivationError(
                f"the integral of '{spec.gradient}' that was found has no finite real value where"
                " its pieces meet or at the anchor: declare function= instead"
            )
    else:
        integrals.paths.append("declared function")
        f, df = declared, _differentiate(declared, X)
    partials = {name: _differentiate(f, s) for name, s in syms.items()}
    return Composed(f, df, partials, integrals)


def _stable_pieces(expr: Any) -> Any:
    if isinstance(expr, sp.Piecewise):
        return sp.Piecewise(*((_stable_pieces(v), c) for v, c in expr.args), evaluate=False)
    if expr.has(sp.Piecewise):
        return expr.func(*map(_stable_pieces, expr.args))
    return stabilise(expr)


def _differentiate(f: Any, symbol: Any) -> Any:
    if isinstance(f, sp.Piecewise):
        pieces = [(_differentiate(v, symbol), c) for v, c in f.args]
        if all(v == pieces[0][0] for v, _ in pieces):
            return pieces[0][0]
        return sp.Piecewise(*pieces, evaluate=False)
    slope = sp.diff(f, symbol)
    # a jump of sign or of a step contributes nothing to the gradient declared at that point
    slope = slope.replace(sp.DiracDelta, lambda *_: sp.S.Zero)
    return _stable_pieces(_tidy(slope))


def _tidy(expr: Any) -> Any:
    if expr.has(sp.Piecewise):
        return expr
    factored = sp.factor_terms(expr)
    return factored if sp.count_ops(factored) < sp.count_ops(expr) else expr


def _integrated(spec: Spec, integrals: Integrals) -> Any:
    point, value = spec.anchor
    anchor = None if isinstance(point, str) else sp.Rational(str(point))
    start = sp.Rational(str(value))
    variants = []
    for layout in layouts(spec, anchor):
        points, exprs = _merged(layout)
        sample = {s: sp.Float(layout.sample[s.name], 30) for s in symbols(spec).values()}
        ends = [-sp.oo, *points, sp.oo]
        parts = [
            integrals.antiderivative(e, ends[i], ends[i + 1], sample) for i, e in enumerate(exprs)
        ]
        home = _home(points, point, sample)
        f: list[Any] = [None] * len(parts)
        if anchor is None:
            low = point == "-oo"
            f[home] = start + _from_limit(spec, parts[home], low)
        else:
            # of the pieces that meet at the anchor, home is the left one
            f[home] = start + parts[home] - _at(parts[home], anchor, "-")
        for i in range(home + 1, len(parts)):
            b = points[i - 1]
            f[i] = parts[i] + _constant(_at(f[i - 1], b, "-") - _at(parts[i], b, "+"))
        for i in range(home - 1, -1, -1):
            b = points[i]
            f[i] = parts[i] + _constant(_at(f[i + 1], b, "+") - _at(parts[i], b, "-"))
        variants.append((_piecewise(points, f), layout.condition))
    if len(variants) == 1:
        return variants[0][0]
    *first, last = variants
    return sp.Piecewise(*first, (last[0], True), evaluate=False)


def _at(expr: Any, point: Any, side: str) -> Any:
    """The value at a point; the one-sided limit where the formula has none, as 0 * log(0)."""
    value = expr.subs(X, point).replace(
        lambda e: isinstance(e, sp.Integral) and e.limits[0][1] == e.limits[0][2],
        lambda e: sp.S.Zero,
    )
    return sp.limit(expr, X, point, side) if value is sp.nan else value


def _merged(layout: Layout) -> tuple[list[Any], list[Any]]:
    points, exprs = [], [layout.exprs[0]]
    for point, expr in zip(layout.points, layout.exprs[1:], strict=True):
        if sp.expand(expr - exprs[-1]) != 0:
            points.append(point)
            exprs.append(expr)
    return points, exprs


def _home(points: list[Any], anchor: Any, sample: dict[Any, Any]) -> int:
    if isinstance(anchor, str):
        return 0 if anchor == "-oo" else len(points)
    return sum(bool(sp.N(p.subs(sample)) < anchor) for p in points)


def _constant(expr: Any) -> Any:
    return sp.simplify(expr) if expr.is_number else sp.factor_terms(sp.expand_mul(expr))


def _piecewise(points: list[Any], f: list[Any]) -> Any:
    if not points:
        return f[0]
    # written from the right, as people do: `right if x > b else left`
    pairs = [(f[i + 1], _right_of(points[i], f[i])) for i in reversed(range(len(points)))]
    return sp.Piecewise(*pairs, (f[0], True), evaluate=False)


def _right_of(point: Any, left: Any) -> Any:
    # the point belongs to the left piece, unless its formula has no value there
    return point <= X if left.subs(X, point) is sp.nan else point < X


def _from_limit(spec: Spec, part: Any, low: bool) -> Any:
    """The antiderivative that vanishes at -oo (or oo)."""
    form = part.replace(softplus0, lambda u: softplus(u) - sp.log(2))
    form = form.replace(expm1mx, lambda u: expm1(u) - u)
    form = sp.expand(form.replace(expm1, lambda u: sp.exp(u) - 1))
    limits = []
    with mp.workdps(60):
        for _, values in zip(range(3), draws(spec), strict=False):
            env = {s: mp.mpf(values[s.name]) for s in form.free_symbols - {X}}
            far = [
                evaluate_expr(form, {X: (-1 if low else 1) * mp.mpf(10) ** k, **env}, mp)
                for k in (36, 38)
            ]
            if not abs(far[0] - far[1]) < mp.mpf("1e-25"):
                raise DerivationError(
                    f"the integral of '{spec.gradient}' has no finite limit at {spec.anchor[0]}:"
                    " anchor it at a point"
                )
            limits.append(far[1])
        if all(abs(v) < mp.mpf("1e-25") for v in limits):
            return form
        if form.free_symbols == {X}:
            fixed, rest = form.as_independent(X, as_Add=True)
            if abs(evaluate_expr(fixed, {}, mp) - limits[0]) < mp.mpf("1e-25"):
                return rest
            return form - sp.Float(str(limits[0]), 40)
    raise DerivationError(
        f"the limit of the integral at {spec.anchor[0]} depends on parameters: anchor it at a point"
    )
