"""A declared text as smooth pieces between ordered breakpoints.

Breakpoints may be numbers or parameters. Where the order of two of them (or of one and the anchor)
depends on parameter values, every possible order is laid out on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Any

import sympy as sp
from mpmath import mp

from integrand.derivation.exact import exact, roots
from integrand.derivation.symbols import Symbolic, X, symbols
from integrand.errors import DerivationError, SpecError
from integrand.spec import Node, Spec, dependency_order, evaluate

_KINKS = {"abs", "sign", "relu", "softsign", "min", "max"}


@dataclass(frozen=True)
class Layout:
    """One order of the breakpoints: `exprs[i]` holds between `points[i-1]` and `points[i]`.

    `condition` is the SymPy relation of the parameters under which the order holds, and `sample`
    are admissible parameter values with that order.
    """

    points: tuple[Any, ...]
    exprs: tuple[Any, ...]
    condition: Any
    sample: dict[str, float]


def layouts(spec: Spec, anchor: Any | None) -> list[Layout]:
    """Every order of the breakpoints (and the anchor point, if finite) with the smooth pieces."""
    syms = symbols(spec)
    cuts = _breakpoints(spec, spec.node, syms)
    points = _distinct([*cuts, *([] if anchor is None else [anchor])])
    known = {
        (a, b): sign
        for a, b in permutations(points, 2)
        if (sign := known_sign(spec, syms, b - a)) is not None
    }
    for a, b in permutations(points, 2):
        if (a, b) not in known and a.free_symbols and b.free_symbols:
            raise SpecError(
                f"breakpoints '{a}' and '{b}' need an order: bound one parameter by the other,"
                f" e.g. Param(..., above='{a}')"
            )
    result = []
    reached: set[tuple[int, str]] = set()
    for order in permutations(points):
        pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
        if any(known.get(p) == -1 for p in pairs):
            continue
        sample = _sample(spec, [p for p in pairs if known.get(p) is None])
        if sample is None:
            continue
        condition = sp.And(*(a <= b for a, b in pairs if (a, b) not in known))
        exprs = tuple(_piece(spec, syms, order, i, sample, reached) for i in range(len(order) + 1))
        result.append(Layout(order, exprs, condition, sample))
    for branch, text in _branches(spec.node):
        if branch not in reached:
            raise SpecError(
                f"breakpoints are out of order in '{spec.gradient or spec.function}': the piece"
                f" {text} can never be reached"
            )
    return result


def known_sign(spec: Spec, syms: dict[str, Any], expr: Any) -> int | None:
    """The sign of an expression of parameters that their bounds enforce, None where they don't."""
    shifted = expr
    # a bound is a positive distance from another parameter or number: substitute it outermost first
    for name in reversed(dependency_order(spec.params)):
        p, d = spec.params[name], sp.Symbol(f"_{name}", positive=True)
        for bound, sign in ((p.above, 1), (p.below, -1)):
            if bound is not None:
                base = syms[bound] if isinstance(bound, str) else sp.Rational(str(bound))
                shifted = shifted.subs(syms[name], base + sign * d)
                break
    shifted = sp.expand(shifted)
    if shifted.is_zero:
        return 0
    return 1 if shifted.is_positive else -1 if shifted.is_negative else None


def draws(spec: Spec, seed: int = 0, spread: float = 2.0) -> Iterator[dict[str, float]]:
    """Admissible parameter values: first the initial ones, then random ones around them."""
    random = Random(seed)
    yield spec.values()
    while True:
        values: dict[str, float] = {}
        for name in dependency_order(spec.params):
            p = spec.params[name]
            lo, hi = (values[b] if isinstance(b, str) else b for b in (p.above, p.below))
            u = random.random()
            if lo is not None and hi is not None:
                value = lo + (hi - lo) * (0.02 + 0.96 * u)
            elif lo is not None:
                value = lo + max(abs(p.init - lo), 0.05) * spread ** (2 * u - 1)
            elif hi is not None:
                value = hi - max(abs(p.init - hi), 0.05) * spread ** (2 * u - 1)
            else:
                value = p.init + max(abs(p.init), 0.5) * spread * (2 * u - 1)
            values[name] = round(value, 6) if round(value, 6) not in (lo, hi) else value
        yield values


def _sample(spec: Spec, pairs: Sequence[tuple[Any, Any]]) -> dict[str, float] | None:
    for _, values in zip(range(400), draws(spec, spread=8.0), strict=False):
        if all(_number(a, values) < _number(b, values) for a, b in pairs):
            return values
    return None


def _number(expr: Any, values: dict[str, float]) -> Any:
    return sp.N(expr.subs({s: sp.Float(values[s.name], 30) for s in expr.free_symbols}), 30)


def _distinct(points: Sequence[Any]) -> list[Any]:
    result: list[Any] = []
    for p in map(sp.nsimplify, points):
        if not any(sp.simplify(p - q) == 0 for q in result):
            result.append(p)
    if len(result) > 7:
        raise SpecError(f"at most 7 distinct breakpoints are supported, got {len(result)}")
    return result


def _branches(node: Node) -> Iterator[tuple[tuple[int, str], str]]:
    if node[0] == "if":
        symbol = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}[node[1]]
        text = f"with the condition x {symbol} {_text(node[2])}"
        yield (id(node), "then"), text
        yield (id(node), "else"), f"{text}'s else"
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _branches(child)


def _text(node: Node) -> str:
    return (
        node[1]
        if node[0] in ("num", "param")
        else f"-{_text(node[1])}"
        if node[0] == "neg"
        else "..."
    )


def _breakpoints(spec: Spec, node: Node, syms: dict[str, Any]) -> list[Any]:
    found = []
    if node[0] == "if":
        found.append(evaluate(node[2], Symbolic(), X, syms))
    if node[0] == "call" and node[1] in _KINKS:
        argument = ("sub", node[2], node[3]) if node[1] in ("min", "max") else node[2]
        found += _kink_points(spec, argument, syms)
    for child in node[1:]:
        if isinstance(child, tuple):
            found += _breakpoints(spec, child, syms)
    return found


def _kink_points(spec: Spec, argument: Node, syms: dict[str, Any]) -> list[Any]:
    """Roots of the argument of a kinked function."""
    expr = sp.expand(evaluate(argument, Symbolic(), X, syms))
    if X not in expr.free_symbols:
        return []
    if expr.is_polynomial(X) and sp.degree(expr, X) == 1:
        slope, offset = expr.coeff(X, 1), expr.coeff(X, 0)
        return [sp.simplify(-offset / slope)]
    rest = expr.as_independent(X, as_Add=False)[1]
    if rest.free_symbols - {X}:
        raise DerivationError(
            f"the argument of abs, sign, relu, softsign, min or max must be affine in x or free of"
            f" parameters, got '{expr}': write the pieces out as 'a if x > c else b'"
        )
    with mp.workdps(40):
        params = {k: mp.mpf(v) for k, v in spec.values().items()}
        return [_recognise(r) for r in roots(lambda x: exact(argument, x, params, mp), mp)]


def _recognise(root: Any) -> Any:
    simple = sp.nsimplify(sp.Float(root, 30), tolerance=sp.Float("1e-25"), rational=True)
    return simple if simple.q < 10**6 else sp.Rational(str(sp.Float(root, 30)))


class _OnInterval(Symbolic):
    """The symbolic namespace on one open interval: every kink and condition is decided."""

    def __init__(self, inside: Any, sample: dict[str, float], reached: set[tuple[int, str]]):
        self.inside, self.sample, self.reached = inside, sample, reached

    def sign(self, expr: Any) -> Any:
        value = _number(expr.subs(X, self.inside), self.sample)
        return sp.sign(value)

    def absolute(self, u: Any) -> Any:
        factor, rest = u.as_independent(X, as_Add=False)
        return sp.Abs(factor) * (self.sign(rest) * rest if rest != 1 else 1)

    def call(self, name: str, *args: Any) -> Any:
        u = args[0]
        if name in _KINKS and any(X in sp.sympify(a).free_symbols for a in args):
            match name:
                case "abs":
                    return self.absolute(u)
                case "sign":
                    factor, rest = u.as_independent(X, as_Add=False)
                    return sp.sign(factor) * self.sign(rest)
                case "softsign":
                    return u / (1 + self.absolute(u))
                case "relu":
                    factor, rest = u.as_independent(X, as_Add=False)
                    if factor.is_positive or factor.is_negative or factor == 1:
                        return u if self.sign(u) > 0 else sp.S.Zero
                    return (u + self.absolute(u)) / 2
                case "min" | "max":
                    larger = args[0] if self.sign(args[0] - args[1]) > 0 else args[1]
                    smaller = args[1] if larger is args[0] else args[0]
                    return larger if name == "max" else smaller
        return super().call(name, *args)


def _piece(
    spec: Spec, syms: dict[str, Any], order: Sequence[Any], i: int, sample: dict[str, float],
    reached: set[tuple[int, str]],
) -> Any:  # fmt: skip
    ends = [_number(p, sample) for p in order]
    if not ends:
        inside = sp.Rational(37, 100)
    elif i == 0:
        inside = ends[0] - sp.Rational(37, 100)
    elif i == len(ends):
        inside = ends[-1] + sp.Rational(37, 100)
    else:
        inside = ends[i - 1] + (ends[i] - ends[i - 1]) * sp.Rational(41, 100)
    inside = sp.Float(inside, 30)
    space = _OnInterval(inside, sample, reached)

    def walk(node: Node) -> Any:
        if node[0] == "if":
            bound = _number(sp.sympify(evaluate(node[2], Symbolic(), X, syms)), sample)
            holds = inside < bound if node[1] in ("lt", "le") else inside > bound
            reached.add((id(node), "then" if holds else "else"))
            return walk(node[3] if holds else node[4])
        if node[0] == "call":
            return space.call(node[1], *map(walk, node[2:]))
        if node[0] in ("x", "num", "pi", "param"):
            return sp.sympify(evaluate(node, space, X, syms))
        return sp.sympify(getattr(space, node[0])(*map(walk, node[1:])))

    return walk(spec.node)
