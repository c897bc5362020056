"""The antiderivative of one smooth piece, term by term.

A term is c(params) * h(u) with u = k(params) * x + c0 and h free of parameters. Each h has one of:
a known stable integral; SymPy's answer, checked by quadrature and measured in floating point; or a
certified table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from mpmath import mp

from integrand.derivation.measure import accurate
from integrand.derivation.multiprecision import evaluate_expr
from integrand.derivation.stable import stabilise
from integrand.derivation.symbols import (
    Primitive,
    X,
    expm1,
    expm1mx,
    log1p,
    logcosh,
    ndtr,
    sigmoid,
    softplus,
    softplus0,
    xmatan,
    xmlog1p,
)  # fmt: skip
from integrand.derivation.sympy_box import integrate as sympy_integrate
from integrand.derivation.table import Table
from integrand.derivation.tabulate import tabulate
from integrand.errors import DerivationError

_SECONDS = 8.0
T = sp.Symbol("t_", real=True)

# integrals from 0 that neither overflow nor cancel, each derivative checked in the tests
KNOWN: dict[Any, Any] = {
    sp.exp(X): expm1(X),
    expm1(X): expm1mx(X),
    sigmoid(X): softplus0(X),
    sigmoid(-X): -softplus0(-X),
    sigmoid(X) * sigmoid(-X): sp.tanh(X / 2) / 2,
    sp.tanh(X): logcosh(X),
    sp.sinh(X): 2 * sp.sinh(X / 2) ** 2,
    sp.cosh(X): sp.sinh(X),
    sp.sin(X): 2 * sp.sin(X / 2) ** 2,
    sp.cos(X): sp.sin(X),
    sp.sin(X) ** 2: X / 2 - sp.sin(2 * X) / 4,
    sp.cos(X) ** 2: X / 2 + sp.sin(2 * X) / 4,
    1 / (1 + X): log1p(X),
    1 / (1 - X): -log1p(-X),
    X / (1 + X): xmlog1p(X),
    X / (1 - X): xmlog1p(-X),
    1 / (1 + X**2): sp.atan(X),
    X**2 / (1 + X**2): xmatan(X),
    sp.exp(-(X**2)): sp.sqrt(sp.pi) / 2 * sp.erf(X),
    sp.exp(-(X**2) / 2): sp.sqrt(sp.pi / 2) * sp.erf(X / sp.sqrt(2)),
    X * sp.exp(-(X**2)): -expm1(-(X**2)) / 2,
    X * sp.exp(-(X**2) / 2): -expm1(-(X**2) / 2),
}
# right but unusable in floating point: shown to people, tabulated for machines
_SHOWN: dict[Any, Any] = {
    softplus(X): -sp.polylog(2, -sp.exp(X)) - sp.pi**2 / 12,
    X * sigmoid(X): X * softplus(X) + sp.polylog(2, -sp.exp(X)) + sp.pi**2 / 12,
    ndtr(X): X * ndtr(X) + expm1(-(X**2) / 2) / sp.sqrt(2 * sp.pi),
}
# SymPy has no answer in its time: not asked, tabulated at once
_IN_VAIN = {1 / (1 + X**8)}


@dataclass
class Integrals:
    """The tables and the paths taken, collected over the pieces of one activation."""

    tables: dict[str, Table] = field(default_factory=dict)
    classes: dict[str, type[Primitive]] = field(default_factory=dict)
    sides: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    seconds: float = _SECONDS

    def antiderivative(self, expr: Any, low: Any, high: Any, sample: dict[Any, Any]) -> Any:
        """An antiderivative in x of a smooth piece that holds between `low` and `high`.

        The bounds may be symbolic; `sample` gives numbers for the parameters in them.
        """
        expr = stabilise(expr)
        total, plain = sp.S.Zero, sp.S.Zero
        for term in _terms(expr):
            done = self._term(term, low, high, sample)
            if done is None:
                plain += term
            else:
                total += done
        if plain != 0:
            total += self._atom(plain, X, low, high, sample)
        return total

    def _term(self, term: Any, low: Any, high: Any, sample: dict[Any, Any]) -> Any | None:
        c, rest = term.as_independent(X, as_Add=False)
        if rest == 1:
            return c * X
        if (power := _power(rest)) is not None:
            return c * power
        if (known := _known(rest)) is not None:
            self._note("known integral")
            return c * known
        scale = _scale(rest)
        if scale is None or not _all_known(rest, *scale):
            quotient = _over_affine(rest, low, high, sample)
            if quotient is not None:
                self._note("known integral")
                return c * quotient
        if scale is None and rest.free_symbols - {X}:
            return c * self._quadrature(rest)
        if scale is None:
            # grouped with the other parameter-free terms, if it is one
            return c * self._atom(rest, X, low, high, sample) if c.free_symbols else None
        k, shift = scale
        h = stabilise(_rescaled(rest, k, shift))
        parts = _terms(h) if h.is_Add or X in (h.free_symbols) else [h]
        result = sp.S.Zero
        for part in parts:
            factor, core = part.as_independent(X, as_Add=False)
            if core.free_symbols - {X}:
                return c * self._quadrature(rest)
            if core == 1:
                piece = X
            elif (piece := _power(core)) is None and (piece := _known(core)) is None:
                if k == 1 and shift == 0 and not c.free_symbols | factor.free_symbols:
                    return None  # grouped with the other parameter-free terms
                piece = self._atom(core, k * X + shift, low, high, sample, inner=True)
                result += c * factor / k * piece
                continue
            else:
                self._note("known integral")
            result += c * factor / k * piece.subs(X, k * X + shift)
        return result

    def _quadrature(self, g: Any) -> Any:
        """The integral from 0 left as it is: the program evaluates it at fixed nodes."""
        self._note("fixed-node quadrature")
        return sp.Integral(g.subs(X, T), (T, 0, X))

    def _note(self, path: str) -> None:
        if path not in self.paths:
            self.paths.append(path)

    def _atom(
        self, h: Any, u: Any, low: Any, high: Any, sample: dict[Any, Any], inner: bool = False
    ) -> Any:
        """The integral from 0 of a parameter-free h, at u."""
        if (known := _known(h)) is not None:
            self._note("known integral")
            return known.subs(X, u)
        sides = _sides(u, low, high, sample)

        def value(v: Any) -> Any:
            return evaluate_expr(h, {X: v}, mp)

        shown = _SHOWN.get(h)
        if shown is None and self.seconds > 0 and h not in _IN_VAIN:
            shown = _closed(h, value, sides, self.seconds)
            if shown is not None and accurate(shown, sides):
                self._note("SymPy integral")
                return shown.subs(X, u)
        name = f"integral_{hashlib.sha256(sp.srepr(h).encode()).hexdigest()[:8]}"
        had = self.sides.get(name, (False, False))
        sides = (sides[0] or had[0], sides[1] or had[1])
        if sides != had:
            try:
                self.tables[name] = tabulate(name, value, sides)
            except DerivationError:
                return self._quadrature(h.subs(X, u)) * sp.diff(u, X)
            self.sides[name] = sides
            self.classes.setdefault(name, table_class(name, h, shown))
        self._note("table")
        return self.classes[name](u)


def table_class(name: str, h: Any, shown: Any | None) -> type[Primitive]:
    """The SymPy function of a table: the integral of h from 0, with its closed form if known."""

    def meaning(context: Any, u: Any) -> Any:
        if u == 0:
            return context.mpf(0)
        if shown is not None:
            return evaluate_expr(shown, {X: u}, context)
        cuts = [c for c in (mp.mpf(2) ** k for k in range(-2, 12)) if c < abs(u)]
        points = [mp.mpf(0), *(c if u > 0 else -c for c in cuts), u]
        return context.quad(lambda v: evaluate_expr(h, {X: v}, context), points)

    body = {
        "rule": staticmethod(lambda u: h.subs(X, u)),
        "spelled": staticmethod(
            lambda u: (
                shown.subs(X, u)
                if shown is not None
                else sp.Integral(h.subs(X, sp.Symbol("t")), (sp.Symbol("t"), 0, u))
            )
        ),
        "at_zero": sp.S.Zero,
        "meaning": staticmethod(meaning),
        "integrand": h,
        "shown": shown,
    }
    return type(name, (Primitive,), body)


def _sides(u: Any, low: Any, high: Any, sample: dict[Any, Any]) -> tuple[bool, bool]:
    """Whether u takes negative and positive values for x between low and high."""
    rising = bool(sp.N(sp.diff(u, X).subs(sample)) > 0)
    ends = [
        (e if rising else -e) if e in (sp.oo, -sp.oo) else sp.N(u.subs(X, e).subs(sample))
        for e in (low, high)
    ]
    return bool(min(ends) < 0), bool(max(ends) > 0)


def _terms(expr: Any) -> list[Any]:
    # distribute products over sums so that coefficients separate, but keep function arguments,
    # (x - b)^n and (x - b)^m / (r x + s)^n as they are: expanding them would cancel near b
    terms: list[Any] = []
    for t in sp.Add.make_args(expr):
        split = t.is_Mul and any(f.is_Add and X in f.free_symbols for f in t.args)
        if split and _quotient(t) is None:
            affine = [f for f in t.args if f.is_Add and X in f.free_symbols]
            rest = t / sp.Mul(*affine)
            if rest.has(X) or len(affine) > 1:
                terms += sp.Add.make_args(sp.expand_mul(sp.expand_multinomial(t)))
                continue
        terms.append(t)
    return terms


def _affine(u: Any) -> tuple[Any, Any] | None:
    """(k, c) where u = k x + c with k != 0."""
    k = sp.diff(u, X)
    if k == 0 or X in k.free_symbols:
        return None
    return k, sp.expand(u - k * X)


def _power(rest: Any) -> Any | None:
    """The integral of (k x + c)^n."""
    base, n = rest.as_base_exp()
    if isinstance(rest, sp.exp) or X in sp.sympify(n).free_symbols:
        return None
    affine = _affine(base)
    if affine is None:
        return None
    if n == -1:
        return None
    if (n + 1).is_zero is None and not n.is_number and not (n + 1).is_positive:
        return None
    return base ** (n + 1) / (affine[0] * (n + 1))


def _known(h: Any) -> Any | None:
    found = KNOWN.get(h)
    if found is None:
        mirrored = KNOWN.get(h.subs(X, -X))
        found = None if mirrored is None else -mirrored.subs(X, -X)
    return found


def _scale(rest: Any) -> tuple[Any, Any] | None:
    """The affine argument (k, c) under which the term is free of parameters."""
    candidates: list[tuple[Any, Any]] = []
    for sub in sp.preorder_traversal(rest):
        inner: Iterable[Any] = ()
        if isinstance(sub, sp.Function):
            inner = sub.args
        elif sub.is_Pow and sub.base != X:
            inner = (sub.base,)
        for u in inner:
            for v in (u, u / 2, *(f for f in sp.Mul.make_args(u)), *_roots_of_square(u)):
                affine = _affine(v)
                if affine is not None and affine not in candidates:
                    candidates.append(affine)
    # a scale alone comes before a shift: integrals anchored at 0 keep their accuracy there
    candidates = [*((k, sp.S.Zero) for k, _ in candidates), *candidates]
    fits = [
        (k, c)
        for k, c in candidates
        if all(
            not t.as_independent(X, as_Add=False)[1].free_symbols - {X}
            for t in _terms(_rescaled(rest, k, c))
        )
    ]
    known = (scale for scale in fits if _all_known(rest, *scale))
    return next(known, fits[0] if fits else None)


def _all_known(rest: Any, k: Any, c: Any) -> bool:
    terms = (t.as_independent(X, as_Add=False)[1] for t in _terms(_rescaled(rest, k, c)))
    return all(_power(t) is not None or _known(t) is not None for t in terms if t != 1)


def _over_affine(rest: Any, low: Any, high: Any, sample: dict[Any, Any]) -> Any | None:
    """The integral of a polynomial over (r x + s)^n, with no pole on the piece, from its `_origin`.

    In w = r (x - o) / D, D = r o + s, it is P(w) / (1 + w) and powers of 1 / (1 + w); P / (1 + w)
    is taken as c / (1 + w) + d w / (1 + w) + w Q(w), which does not cancel next to w = 0.
    """
    quotient, origin = _quotient(rest), _origin(low, high)
    if quotient is None or origin is None:
        return None
    top, bottom, n = quotient
    r, at_origin = sp.diff(bottom, X), sp.expand(bottom.subs(X, origin))
    if all(_sides(bottom, low, high, sample)) or sp.N(at_origin.subs(sample)) == 0:
        return None
    w = sp.expand(r * (X - origin)) / at_origin
    over = sp.Poly(top.subs(X, origin + at_origin * T / r), T)
    one, more = over.div(sp.Poly((1 + T) ** (n - 1), T))
    c = one.eval(0)
    one = (one - c).exquo(sp.Poly(T, T))
    d = one.eval(-1)
    polynomial = (one - d).exquo(sp.Poly(1 + T, T)) * T
    total = sp.simplify(c) * log1p(w) + sp.simplify(d) * xmlog1p(w)
    total += polynomial.integrate().as_expr().subs(T, w)
    for (k,), a in more.compose(sp.Poly(T - 1, T)).terms() if more else ():
        m = n - 1 - k  # (1 - (1 + w)^-m) / m without the cancellation
        total += a / m * w * sum((1 + w) ** -i for i in range(1, m + 1))
    return total * at_origin ** (1 - n) / r


def _quotient(rest: Any) -> tuple[Any, Any, int] | None:
    """(N, D, n) where the term is N / D^n: N a polynomial in x, D affine in x."""
    top, bottom = sp.fraction(sp.together(rest))
    base, n = bottom.as_base_exp()
    found = n.is_Integer and _affine(base) is not None and top.is_polynomial(X)
    return (top, base, int(n)) if found else None


def _origin(low: Any, high: Any) -> Any | None:
    """0 where the piece surely holds it, else its end, the one that is nearer to 0."""
    numbers = [sp.N(e) for e in (low, high) if not e.free_symbols]
    if len(numbers) == 2 and numbers[0] <= 0 <= numbers[1]:
        return sp.S.Zero
    finite = [e for e in (low, high) if e not in (sp.oo, -sp.oo)]
    return min(finite, key=lambda e: (bool(e.free_symbols), abs(e))) if finite else None


def _rescaled(rest: Any, k: Any, c: Any) -> Any:
    """The term as a function of u = k x + c, parameters pulled out of sums and powers."""
    h = rest.subs(X, (X - c) / k).replace(
        lambda e: isinstance(e, sp.Function), lambda e: e.func(*map(sp.expand, e.args))
    )
    h = sp.factor_terms(h)
    return sp.powsimp(sp.expand_power_base(h, force=True))


def _roots_of_square(u: Any) -> list[Any]:
    """Scales hidden in powers: (x k)^2, and x/a in a^8 + x^8."""
    found = []
    for p in u.atoms(sp.Pow):
        base, n = p.as_base_exp()
        if base == X and n.is_number:
            fixed, monomial = u.as_independent(X, as_Add=True)
            c, r = monomial.as_independent(X, as_Add=False)
            sizes = [c] + ([c / fixed] if fixed != 0 else [])
            found += [
                X * sp.Abs(s) ** (1 / n) for s in sizes if r == p and not sp.Abs(s).has(sp.Abs)
            ]
        elif X in base.free_symbols:
            found.append(base)
    return found


def _closed(
    h: Any, value: Callable[[Any], Any], sides: tuple[bool, bool], seconds: float
) -> Any | None:
    """SymPy's integral of h, anchored at 0, if quadrature confirms it on the sides in use."""
    found = sympy_integrate(h, seconds)
    if found is None or found.has(sp.I, sp.Integral, sp.zoo, sp.nan):
        return None
    try:
        at_zero = found.subs(X, 0)
        if not at_zero.is_finite:
            at_zero = sp.limit(found, X, 0, "+" if sides[1] else "-")
        found = stabilise(found - at_zero)
        with mp.workdps(40):
            signs = [s for s, used in zip((-1, 1), sides, strict=True) if used]
            for u in (s * v for s in signs for v in (0.3, 2.7, 11)):
                truth = mp.quad(value, [0, mp.mpf(u) / 8, mp.mpf(u) / 2, u])
                if abs(evaluate_expr(found, {X: mp.mpf(u)}, mp) - truth) > mp.mpf("1e-20") * (
                    1 + abs(truth)
                ):
                    return None
    except (TypeError, ValueError, ZeroDivisionError, NotImplementedError, KeyError):
        return None
    return found
