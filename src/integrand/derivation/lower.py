"""SymPy expressions -> the scalar program.

Products are ordered so that no intermediate overflows where the result does not: parameters and
constants first, then functions, then powers of x one factor at a time. A piece is evaluated on an
argument clamped into its own region, so that branches not taken stay finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sympy as sp

from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.program import Op, Program, operands
from integrand.derivation.symbols import Primitive, X
from integrand.derivation.table import Table

_NAMES = {"Abs": "abs"}
_EDGE = 4096
_FLIP = {">": ("lt", True), ">=": ("le", True), "<": ("lt", False), "<=": ("le", False)}


class Lowering:
    """Collects ops; equal ops are stored once."""

    def __init__(self, tables: Mapping[str, Table], spread: bool = False):
        self.spread = spread
        self.ops: list[Op] = []
        self.index: dict[Op, int] = {}
        self.tables = dict(tables)
        self.uniform: set[int] = set()

    def op(self, *op: Any) -> int:
        """The number of an op, appended if it is new."""
        if op not in self.index:
            self.index[op] = len(self.ops)
            self.ops.append(op)
            if op[0] != "x" and all(i in self.uniform for i in operands(op)):
                self.uniform.add(self.index[op])
        return self.index[op]

    def const(self, value: Any) -> int:
        """A constant: exact where it is a short decimal, else with 30 digits."""
        if value.is_infinite:
            return self.op("const", "inf" if value.is_positive else "-inf")
        number = sp.nsimplify(value) if value.is_Float else value
        if number.is_Rational and not set(sp.primefactors(number.q)) - {2, 5} and number.q < 10**30:
            digits = max(sp.multiplicity(2, number.q), sp.multiplicity(5, number.q))
            scaled = abs(number.p) * 10**digits // number.q
            text = str(scaled).rjust(digits + 1, "0")
            text = f"{text[:-digits]}.{text[-digits:]}" if digits else text
            return self.op("const", ("-" if number < 0 else "") + text)
        return self.op("const", str(sp.N(value, 30)))

    def expr(self, expr: Any, x: int) -> int:
        """The op that computes an expression, with `x` the op that stands for x."""
        if expr == X:
            return x
        if not expr.free_symbols and not isinstance(expr, sp.Piecewise):
            return self.const(expr)
        if expr.is_Symbol:
            return self.op("param", expr.name)
        if expr.is_Add:
            return self._add(expr, x) if (p := _polynomial(expr)) is None else self._horner(p, x)
        if expr.is_Mul or expr.is_Pow:
            return self._product(expr, x)
        if isinstance(expr, sp.Piecewise):
            return self._piecewise(expr.args, x)
        if isinstance(expr, sp.Integral):
            return self._quadrature(expr, x)
        name = _NAMES.get(type(expr).__name__, type(expr).__name__)
        if name in ("minimum", "maximum"):
            return self.op(name[:3], *(self.expr(a, x) for a in expr.args))
        u = self.expr(expr.args[0], x)
        if name in self.tables:
            return self.op("table", list(self.tables).index(name), u)
        if name not in PRIMITIVES:
            raise TypeError(f"no primitive computes {name}")
        return self.op("call", name, u)

    def _add(self, expr: Any, x: int) -> int:
        positive, negative = [], []
        for term in expr.args:
            minus = term.could_extract_minus_sign() and not term.is_Add
            (negative if minus else positive).append(self.expr(-term if minus else term, x))
        # parameters and constants meet first: they leave the loop over x, and cancel before it
        uniform = sum(i in self.uniform for i in positive)
        positive.sort(key=lambda i: (i not in self.uniform, i))
        negative.sort(key=lambda i: (i not in self.uniform, i))
        if not positive:
            return self._chain("sub", [self.op("const", "0"), *negative])
        early = sum(i in self.uniform for i in negative) if uniform else 0
        head = self._chain("add", positive[: uniform or None])
        total = self._chain("sub", [head, *negative[:early]])
        rest = positive[uniform:] if uniform else []
        return self._chain("sub", [self._chain("add", [total, *rest]), *negative[early:]])

    def _horner(self, coefficients: list[Any], x: int) -> int:
        """c0 + x (c1 + x (c2 + ...)): no power of x overflows alone, one product less per term."""
        *rest, last = coefficients
        total = self.expr(last * X, x)
        for i, c in reversed(list(enumerate(rest))):
            total = self.op("mul", total, x) if i < len(rest) - 1 else total
            if c.could_extract_minus_sign() and not c.is_Add:
                total = self.op("sub", total, self.expr(-c, x))
            elif c != 0:
                total = self.op("add", self.expr(c, x), total)
        return total

    def _chain(self, name: str, items: Iterable[int]) -> int:
        first, *rest = items
        for i in rest:
            first = self.op(name, first, i)
        return first

    def _product(self, expr: Any, x: int) -> int:
        numerator: list[Any] = []
        denominator: list[Any] = []
        for factor in sp.Mul.make_args(expr):
            base, exponent = (
                factor.as_base_exp() if not isinstance(factor, sp.exp) else (factor, sp.S.One)
            )
            if factor.is_Rational and factor.q != 1 and not factor.free_symbols:
                numerator.append((factor, sp.S.One))
            elif exponent.could_extract_minus_sign():
                denominator.append((base, -exponent))
            else:
                numerator.append((base, exponent))
        denominator, inverses = self._inverted(denominator, x) if self.spread else (denominator, [])
        over = _alternating(self._factors(numerator, x), inverses, x) or [self.op("const", "1")]
        under = self._factors(denominator, x)
        if not under:
            return self._chain("mul", over)
        fixed = [i for i in over if i in self.uniform]
        fixed_under = [i for i in under if i in self.uniform]
        free, free_under = over[len(fixed) :], under[len(fixed_under) :]
        head = None
        if fixed or fixed_under:
            head = self._chain("mul", fixed) if fixed else self.op("const", "1")
            if fixed_under:
                head = self.op("div", head, self._chain("mul", fixed_under))
        body = [*([] if head is None else [head]), *free]
        top = self._chain("mul", body) if body else self.op("const", "1")
        return self.op("div", top, self._chain("mul", free_under)) if free_under else top

    def _inverted(self, powers: list[Any], x: int) -> tuple[list[Any], list[int]]:
        """Powers in a denominator as factors 1 / base, so that none of a large base overflows; and
        the rest."""
        kept, inverses = [], []
        for base, exponent in powers:
            if exponent.is_Integer and exponent > 1 and X in base.free_symbols:
                inverse = self.op("div", self.op("const", "1"), self.expr(base, x))
                inverses += [inverse] * int(exponent)
            else:
                kept.append((base, exponent))
        return kept, inverses

    def _factors(self, powers: list[tuple[Any, Any]], x: int) -> list[int]:
        """Factors in the order of multiplication: fixed ones, functions, then x again and again."""
        fixed, functions, powers_of_x = [], [], []
        for base, exponent in powers:
            if base == X and exponent.is_Integer:
                powers_of_x += [x] * int(exponent)
                continue
            ops = self._power(base, exponent, x)
            (fixed if all(i in self.uniform for i in ops) else functions).extend(ops)
        return [*fixed, *functions, *powers_of_x]

    def _power(self, base: Any, exponent: Any, x: int) -> list[int]:
        b = self.expr(base, x)
        if exponent == 1:
            return [b]
        if exponent.is_Integer and exponent > 0:
            return [self._integer_power(b, int(exponent))]
        if exponent.is_Rational and exponent.q == 2 and exponent > 0:
            root = self.op("call", "sqrt", b)
            whole = int(exponent - sp.Rational(1, 2))
            return [root] + ([self._integer_power(b, whole)] if whole else [])
        return [self.op("pow", b, self.expr(exponent, x))]

    def _integer_power(self, b: int, n: int) -> int:
        if n == 1:
            return b
        half = self._integer_power(b, n // 2)
        square = self.op("mul", half, half)
        return self.op("mul", square, b) if n % 2 else square

    def _quadrature(self, expr: Any, x: int) -> int:
        """The integral from 0 to x at fixed Gauss-Legendre nodes.

        Up to |x| = c in s with t = sinh(s), which spreads all scales evenly; beyond in log t.
        """
        g, (t, _, upper) = expr.args
        end = self.expr(upper, x)
        edge = self.op("const", str(_EDGE))
        low = self.op("sub", self.op("const", "0"), edge)
        inner = self.op("max", low, self.op("min", edge, end))
        # an infinite end is left to the guard: 0 * inf would be nan
        size = self.op("call", "abs", end)
        outer = self.op("max", edge, size)
        s = self.op("call", "asinh", inner)
        terms = []
        for node, weight in _nodes(40):
            v = self.op("mul", self.op("const", repr(node)), s)
            slope = self.op("call", "cosh", v)
            value = self.expr(g.subs(t, X), self.op("call", "sinh", v))
            term = self.op("mul", self.op("mul", value, slope), self.op("const", repr(weight)))
            terms.append(term)
        total = self.op("mul", self._chain("add", terms), s)
        length = self.op("call", "log", self.op("div", outer, edge))
        negative = self.op("lt", end, self.op("const", "0"))
        sign = self.op("select", negative, self.op("const", "-1"), self.op("const", "1"))
        start = self.op("mul", sign, edge)
        terms = []
        for node, weight in _nodes(16):
            grown = self.op("call", "exp", self.op("mul", self.op("const", repr(node)), length))
            point = self.op("mul", start, grown)
            value = self.expr(g.subs(t, X), point)
            term = self.op("mul", self.op("mul", value, self.op("const", repr(weight))), point)
            terms.append(term)
        tail = self.op("mul", self._chain("add", terms), length)
        return self.op("select", self.op("lt", edge, size), self.op("add", total, tail), total)

    def _piecewise(self, pieces: tuple[Any, ...], x: int) -> int:
        (value, condition), *rest = pieces
        condition = oriented(condition)
        if condition in (True, sp.true) or not rest:
            return self.expr(value, x)
        flag = self.condition(condition, x)
        if X not in condition.free_symbols:
            return self.op("select", flag, self.expr(value, x), self._piecewise(tuple(rest), x))
        bound = condition.rhs if condition.lhs == X else None
        if bound is None or (_total(value) and all(_total(v) for v, _ in rest)):
            return self.op("select", flag, self.expr(value, x), self._piecewise(tuple(rest), x))
        edge = self.expr(bound, x)
        inside = x if _total(value) else self.op("select", flag, x, edge)
        # `select(flag, edge, x)`, not its mirror: a nan must reach the last piece
        outside = self.op("select", flag, edge, x)
        return self.op(
            "select", flag, self.expr(value, inside), self._piecewise(tuple(rest), outside)
        )

    def condition(self, condition: Any, x: int) -> int:
        """The boolean op of a relation or a conjunction of relations."""
        if isinstance(condition, sp.And):
            return self._chain("and", [self.condition(c, x) for c in condition.args])
        name, swap = _FLIP[condition.rel_op]
        a, b = self.expr(condition.lhs, x), self.expr(condition.rhs, x)
        return self.op(name, b, a) if swap else self.op(name, a, b)

    def program(self, params: tuple[str, ...], outputs: Mapping[str, int], wide: bool) -> Program:
        """The collected ops, those that no output needs removed."""
        whole = Program(params, tuple(self.ops), dict(outputs), tuple(self.tables.values()), wide)
        keep = whole.needed(outputs)
        new = {old: i for i, old in enumerate(keep)}
        used = sorted({self.ops[i][1] for i in keep if self.ops[i][0] == "table"})

        def renumber(op: Op) -> Op:
            match op[0]:
                case "x" | "param" | "const":
                    return op
                case "call":
                    return ("call", op[1], new[op[2]])
                case "table":
                    return ("table", used.index(op[1]), new[op[2]])
                case _:
                    return (op[0], *(new[i] for i in op[1:]))

        tables = tuple(self.tables.values())
        return Program(
            params,
            tuple(renumber(self.ops[i]) for i in keep),
            {k: new[i] for k, i in outputs.items()},
            tuple(tables[i] for i in used),
            wide,
        )


def oriented(condition: Any) -> Any:
    """A relation with x on the left: SymPy turns it round as it likes."""
    return condition.reversed if condition.is_Relational and condition.rhs == X else condition


def _polynomial(expr: Any) -> list[Any] | None:
    """Coefficients of a sum that is a polynomial in x of degree 2 to 8, lowest first."""
    if not expr.is_polynomial(X) or expr.has(sp.Piecewise):
        return None
    coefficients = sp.Poly(expr, X).all_coeffs()[::-1]
    return coefficients if 3 <= len(coefficients) <= 9 else None


def _alternating(factors: list[int], inverses: list[int], x: int) -> list[int]:
    """The factors with one of the inverses before each power of x, the rest at the end."""
    left, mixed = list(inverses), []
    for i in factors:
        mixed += [left.pop(), i] if i == x and left else [i]
    return mixed + left


def _nodes(n: int) -> list[tuple[float, float]]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    t, w = np.polynomial.legendre.leggauss(n)
    return [(float((a + 1) / 2), float(b / 2)) for a, b in zip(t, w, strict=True)]


def _total(expr: Any) -> bool:
    """Whether an expression is finite for every finite x: a polynomial in x, of moderate degree."""
    return not expr.has(sp.Function, sp.Integral, Primitive) and bool(expr.is_polynomial(X))
