"""Multi-precision evaluation of a declared text: the truth everything else is measured against.

Works on the parsed text alone, so it shares nothing with the derivation it checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from integrand.derivation.budget import check
from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.quadrature import quad
from integrand.spec import Node, Spec, evaluate

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


class Exact:
    """The namespace of `spec.evaluate` in the precision of an mpmath context."""

    def __init__(self, mp: Any):
        self.mp, self.pi = mp, mp.pi
        self.num = lru_cache(4096)(mp.mpf)

    def neg(self, a: Any) -> Any:
        return -a

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def div(self, a: Any, b: Any) -> Any:
        return a / b

    def pow(self, a: Any, b: Any) -> Any:
        # 0**b with b > 0 would take log(0) for a non-integer b
        return self.mp.mpf(0) if a == 0 and b > 0 else a**b

    def call(self, name: str, *args: Any) -> Any:
        match name:
            case "min":
                return min(args)
            case "max":
                return max(args)
        return PRIMITIVES[name].meaning(self.mp, *args)

    def select(self, op: str, x: Any, bound: Any, then: Any, otherwise: Any) -> Any:
        return then() if _COMPARE[op](x, bound) else otherwise()


def exact(node: Node, x: Any, params: Mapping[str, Any], mp: Any) -> Any:
    """The exact value of a node at an mpf x, for mpf parameter values."""
    return evaluate(node, _namespace(mp, mp.prec), x, params)


@lru_cache(16)
def _namespace(mp: Any, precision: int) -> Exact:
    # decimal numbers round to the precision in force, so each precision keeps its own
    return Exact(mp)


def breakpoints(node: Node, params: Mapping[str, Any], mp: Any) -> list[Any]:
    """The points where a text changes its piece, ascending: bounds of its conditions, and roots of
    the arguments of `abs sign relu softsign min max` on a wide scan."""
    found = set(_bounds(node, params, mp))
    for kink in _kinks(node):
        found |= set(roots(partial(_at, kink, params, mp), mp))
    return sorted(found)


def _at(node: Node, params: Mapping[str, Any], mp: Any, x: Any) -> Any:
    return exact(node, x, params, mp)


def _bounds(node: Node, params: Mapping[str, Any], mp: Any) -> list[Any]:
    found = [exact(node[2], mp.mpf(0), params, mp)] if node[0] == "if" else []
    for child in node[1:]:
        if isinstance(child, tuple):
            found += _bounds(child, params, mp)
    return found


def _kinks(node: Node) -> list[Node]:
    found: list[Node] = []
    if node[0] == "call" and node[1] in ("abs", "sign", "relu", "softsign"):
        found.append(node[2])
    if node[0] == "call" and node[1] in ("min", "max"):
        found.append(("sub", node[2], node[3]))
    for child in node[1:]:
        if isinstance(child, tuple):
            found += _kinks(child)
    return found


def roots(function: Callable[[Any], Any], mp: Any) -> list[Any]:
    """Sign changes and zeros of a function on a scan of 20 octaves on both sides of 0."""
    grid = [mp.mpf(0)] + [s * mp.mpf(2) ** (mp.mpf(k) / 8) for k in range(-80, 81) for s in (1, -1)]
    grid.sort()
    values = [function(x) for x in grid]
    found = [x for x, v in zip(grid, values, strict=True) if v == 0]
    for a, b, va, vb in zip(grid, grid[1:], values, values[1:], strict=False):
        if va * vb < 0:
            found.append(mp.findroot(function, (a, b), solver="anderson", verify=False))
    return found


def integral(spec: Spec, x: Any, params: Mapping[str, Any], mp: Any) -> Any:
    """f(x) of a gradient spec by quadrature of its declared text, from the anchor to x."""
    return integrals(spec, [x], params, mp)[0]


def integrals(spec: Spec, points: Sequence[Any], params: Mapping[str, Any], mp: Any) -> list[Any]:
    """f at several points by quadrature of the declared gradient, each stretch integrated once.

    Quadrature between breakpoints and on octaves: independent of every closed form.
    """
    node = spec.node

    def slope(t: Any) -> Any:
        check()
        return exact(node, t, params, mp)

    point, value = spec.anchor
    start = mp.mpf(str(point).replace("oo", "inf"))
    cuts = {*breakpoints(node, params, mp), mp.mpf(0)}
    cuts |= {s * mp.mpf(2) ** k for k in range(-2, 14) for s in (1, -1)}
    result: dict[Any, Any] = {start: mp.mpf(str(value))}
    above = sorted(p for p in points if p > start)
    below = sorted((p for p in points if p < start), reverse=True)
    for side in (above, below):
        at, total = start, result[start]
        for p in side:
            low, high = min(at, p), max(at, p)
            stops = [low, *sorted(c for c in cuts if low < c < high), high]
            part = quad(slope, stops, mp) if low < high else 0
            total += part if p > at else -part
            at, result[p] = p, total
    return [result[p] for p in points]
