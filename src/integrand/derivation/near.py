"""Next to the anchor, where the terms of an antiderivative cancel: its Taylor series.

softplus(x + 1) - softplus(1) is off by the rounding of softplus(1), however small x is. There the
first terms of the series about the anchor are exact to the precision of each of them. Every x
decides for itself: the last two terms must be negligible, the value small beside what cancelled,
and the formula, as far as its own rounding lets it say, of the same opinion. No radius need be
known, and where the series misleads it is off by the rounding of the formula, not by more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp
from mpmath import mp

from integrand.derivation.lower import Lowering
from integrand.derivation.multiprecision import evaluate_expr
from integrand.derivation.pieces import draws
from integrand.derivation.stable import stabilise
from integrand.derivation.symbols import X, relu, softsign
from integrand.derivation.truncation import AGREE, NEGLIGIBLE, SMALL
from integrand.spec import Spec

TERMS = 7
_KINKED = (sp.Abs, sp.sign, softsign, relu)
_DIGITS = 40


def cancelling(spec: Spec, f: Any) -> dict[Any, Any]:
    """The pieces of f that are 0 at the anchor as differences of larger terms, each with its
    derivative. Those without a series that this module can find are left out."""
    point, value = spec.anchor
    if spec.kind != "gradient" or isinstance(point, str) or value != 0:
        return {}
    anchor, slopes = sp.Rational(str(point)), {}
    for leaf in dict.fromkeys(_leaves(f)):
        if _cancels(spec, leaf, anchor):
            slope = stabilise(sp.diff(leaf, X))
            # whether there is one, the coefficients tell
            with contextlib.suppress(TypeError):
                _Coefficients(Lowering({}), anchor).first(slope)
                slopes[leaf] = slope
    return slopes


class NearAnchor(Lowering):
    """A lowering that takes series about the anchor of the `slopes` that `cancelling` found."""

    def __init__(
        self,
        spec: Spec,
        tables: Mapping[str, Any],
        slopes: Mapping[Any, Any],
        *,
        spread: bool,
        wide: bool,
    ):
        super().__init__(tables, spread)
        self.point, self.slopes, self.agree = spec.anchor[0], slopes, AGREE[wide]

    def expr(self, expr: Any, x: int) -> int:
        """The op that computes an expression."""
        direct = super().expr(expr, x)
        if expr not in self.slopes:
            return direct
        anchor = sp.Rational(str(self.point))
        value, tail = self._value(self.slopes[expr], x, anchor)
        size = self._size(expr, anchor)
        op = self.op
        ends = op("le", tail, op("mul", op("call", "abs", value), op("const", repr(NEGLIGIBLE))))
        small = op("lt", op("call", "abs", value), op("mul", size, op("const", repr(SMALL))))
        apart = op("call", "abs", op("sub", value, direct))
        agree = op("le", apart, op("mul", size, op("const", self.agree)))
        return op("select", op("and", op("and", ends, small), agree), value, direct)

    def _value(self, slope: Any, x: int, anchor: Any) -> tuple[int, int]:
        """The series of what `slope` is the derivative of, and the size of its last two terms."""
        at, op = _Coefficients(self, anchor), self.op
        found = at.first(slope)
        d = op("sub", x, self.const(anchor)) if anchor else x
        total = at.op(found[-1])
        for c in reversed(found[:-1]):
            total = op("mul", total, d)
            total = total if c is sp.S.Zero else op("add", at.op(c), total)
        second = op("mul", d, d)
        sixth = op("mul", op("mul", second, second), second)
        before, last = (op("call", "abs", at.op(c)) for c in found[-2:])
        last = op("mul", last, op("call", "abs", d))
        return op("mul", total, d), op("mul", op("add", before, last), sixth)

    def _size(self, leaf: Any, anchor: Any) -> int:
        """The sum of the sizes of the terms at the anchor."""
        at = self.const(anchor)
        terms = [self.expr(t, at) for t in sp.Add.make_args(sp.expand_mul(leaf))]
        return self._chain("add", [self.op("call", "abs", t) for t in terms])


def _leaves(expr: Any) -> Iterator[Any]:
    if isinstance(expr, sp.Piecewise):
        for value, _ in expr.args:
            yield from _leaves(value)
    else:
        yield expr


def _cancels(spec: Spec, leaf: Any, anchor: Any) -> bool:
    """Whether a sum with a constant in it is 0 at the anchor, whatever the parameters are."""
    terms = sp.Add.make_args(sp.expand_mul(leaf))
    if not any(X not in term.free_symbols for term in terms):
        return False
    sizes = []
    for _, values in zip(range(3), draws(spec), strict=False):
        with mp.workdps(_DIGITS):
            env = {s: mp.mpf(values[s.name]) for s in leaf.free_symbols - {X}}
            env[X] = mp.mpf(anchor.p) / anchor.q
            try:
                here = [evaluate_expr(term, env, mp) for term in terms]
            except (ZeroDivisionError, ValueError):
                return False  # of a piece that does not hold at the anchor
            sizes.append(max(map(abs, here)))
            if abs(mp.fsum(here)) > mp.mpf(10) ** (5 - _DIGITS) * sizes[-1]:
                return False
    return max(sizes) > 0


@dataclass(frozen=True)
class _Op:
    """A coefficient that depends on parameters, as the number of an op."""

    number: int


class _Coefficients:
    """Taylor coefficients at a point: SymPy numbers where no parameter is involved, else ops."""

    def __init__(self, lowering: Lowering, point: Any) -> None:
        self.lowering, self.point = lowering, point
        self.known: dict[tuple[Any, int], Any] = {}

    def first(self, slope: Any) -> list[Any]:
        """The coefficients of x - point, its square and so on of the integral of `slope`.

        Raises TypeError where it has none, or where the last two are 0 and tell nothing.
        """
        found = [self.of(slope, k, over=k + 1) for k in range(TERMS)]
        if found[-2:] == [0, 0]:
            raise TypeError(f"the last two terms of the series of {slope} must tell where it ends")
        return found

    def of(self, expr: Any, k: int, over: int = 1) -> Any:
        """The coefficient of (x - point)^k, divided by `over`."""
        if (expr, k) not in self.known:
            self.known[expr, k] = self._found(expr, k)
        return self._times(self.known[expr, k], sp.Rational(1, over))

    def _found(self, expr: Any, k: int) -> Any:
        if k == 0 or X not in expr.free_symbols:
            return sp.S.Zero if k else self._value(expr)
        if expr == X:
            return sp.Integer(k == 1)
        if expr.is_Add:
            return self._sum(self.of(term, k) for term in expr.args)
        if expr.is_Mul:
            a, b = expr.as_two_terms()
            return self._sum(self._times(self.of(a, j), self.of(b, k - j)) for j in range(k + 1))
        inner, slope = _chain(expr)
        return self._sum(
            self._times(self._times(self.of(inner, j), self.of(slope, k - j)), sp.Rational(j, k))
            for j in range(1, k + 1)
        )

    def _value(self, expr: Any) -> Any:
        at = expr.subs(X, self.point)
        if at.free_symbols:
            return _Op(self.lowering.expr(at, self.lowering.const(self.point)))
        number = sp.N(at, _DIGITS)
        if not (number.is_Number and number.is_finite):
            raise TypeError(f"{expr} must be finite at the anchor, got {number}")
        return number

    def _times(self, a: Any, b: Any) -> Any:
        if sp.S.Zero in (a, b):
            return sp.S.Zero
        return self._op("mul", a, b)

    def _sum(self, terms: Iterable[Any]) -> Any:
        total: Any = sp.S.Zero
        for term in terms:
            if term is sp.S.Zero:
                continue
            total = term if total is sp.S.Zero else self._op("add", total, term)
        return total

    def _op(self, name: str, a: Any, b: Any) -> Any:
        if isinstance(a, _Op) or isinstance(b, _Op):
            return _Op(self.lowering.op(name, self.op(a), self.op(b)))
        return a * b if name == "mul" else a + b

    def op(self, coefficient: Any) -> int:
        """The op of a coefficient."""
        if isinstance(coefficient, _Op):
            return coefficient.number
        # not through `const`, which takes what is tiny for 0
        return self.lowering.op("const", str(sp.N(coefficient, 30)))


def _chain(expr: Any) -> tuple[Any, Any]:
    """(u, h'(u)) of an expression h(u)."""
    if expr.is_Pow and X not in expr.exp.free_symbols:
        return expr.base, expr.exp * expr.base ** (expr.exp - 1)
    if isinstance(expr, sp.Function) and len(expr.args) == 1 and not isinstance(expr, _KINKED):
        return expr.args[0], expr.fdiff(1)
    raise TypeError(f"no series of {expr}")
