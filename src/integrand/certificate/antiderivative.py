"""f from its declared gradient alone: Gauss-Legendre quadrature in multi-precision.

Shares no code with the derivation. The line is cut at the anchor, 0, the breakpoints and the powers
of two; the integral up to each cut is kept, so that one more point costs one more interval.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import cache
from typing import Any

from integrand.certificate.context import context
from integrand.derivation.exact import breakpoints, exact
from integrand.spec import Spec

_DIGITS, _TOLERANCE, _DEPTH = 34, 1e-24, 10
_FIRST, _LAST = -2, 1030


@cache
def _prepared() -> tuple[Any, list[Any], frozenset[Any]]:
    """A context of fixed precision, Gauss-Legendre nodes of 24 and 48 points, the octaves."""
    import mpmath

    mp = context()
    mp.dps = _DIGITS
    rule = mpmath.calculus.quadrature.GaussLegendre(mp)
    nodes = [rule.calc_nodes(degree, mp.prec) for degree in (4, 5)]
    octaves = {s * mp.mpf(2) ** k for k in range(_FIRST, _LAST) for s in (1, -1)}
    return mp, nodes, frozenset(octaves)


class Antiderivative:
    """`Antiderivative(spec, params)(x)`: f(x) to about 23 digits relative to the integral of |g|,
    None where quadrature does not settle (a gradient that oscillates at large x)."""

    def __init__(self, spec: Spec, params: Mapping[str, Any]):
        self.mp, self._nodes, powers = _prepared()
        mp = self.mp
        self.node, self.params = spec.node, {k: mp.mpf(v) for k, v in params.items()}
        point, value = spec.anchor
        self.value = mp.mpf(value)
        self.anchor = mp.mpf(str(point).replace("oo", "inf"))
        cuts = set(powers)
        cuts |= {mp.zero, *breakpoints(self.node, self.params, mp)}
        if mp.isfinite(self.anchor):
            cuts.add(self.anchor)
        self._cuts = sorted(cuts)
        self._at: dict[int, Any] = {}
        self._start()

    def __call__(self, x: float) -> Any:
        """f(x), or None."""
        mp = self.mp
        x = mp.mpf(x)
        if not mp.isfinite(self.anchor) and (x - self._edge) * self._edge > 0:
            return self._tail(x)
        i = self._place(x)
        # go on from the cut nearer to the anchor
        base = i if self.anchor <= self._cuts[i] else i + 1
        known = self._reach(base)
        if known is None:
            return None
        step = self._between(self._cuts[base], x, abs(known))
        return None if step is None else known + step

    def _start(self) -> None:
        if self.mp.isfinite(self.anchor):
            self._origin = self._cuts.index(self.anchor)
            self._at[self._origin] = self.value
            return
        # from infinity inward, on s = 1/x, where algebraic tails are smooth
        outward = self.anchor > 0
        edge = 300 if outward else -300
        self._origin = min(range(len(self._cuts)), key=lambda i: abs(self._cuts[i] - edge))
        self._edge = self._cuts[self._origin]
        self._at[self._origin] = self._tail(self._edge)

    def _tail(self, x: Any) -> Any:
        mp = self.mp
        # mpmath stops at an absolute error: the integrand is brought to the size of 1
        unit = abs(self._g(x)) or mp.one
        total, error = mp.quad(
            lambda u: self._g(x / u) * x / (u * u * unit) if u else mp.zero, [0, 1], error=True
        )
        if not error <= mp.mpf(10) ** -20 * abs(total):
            return None
        return self.value - total * unit

    def _place(self, x: Any) -> int:
        return min(max(bisect_right(self._cuts, x) - 1, 0), len(self._cuts) - 2)

    def _reach(self, i: int) -> Any:
        if i not in self._at:
            step = 1 if i > self._origin else -1
            j = i
            while j not in self._at:
                j -= step
            while j != i:
                known = self._at[j]
                part = None
                if known is not None:
                    part = self._between(self._cuts[j], self._cuts[j + step], abs(known))
                j += step
                self._at[j] = None if part is None else known + part
        return self._at[i]

    def _g(self, t: Any) -> Any:
        return exact(self.node, t, self.params, self.mp)

    def _between(self, a: Any, b: Any, scale: Any) -> Any:
        """The integral from a to b, to `_TOLERANCE` of itself or of `scale`."""
        return self.mp.zero if a == b else self._adaptive(a, b, scale, 0)

    def _adaptive(self, a: Any, b: Any, scale: Any, depth: int) -> Any:
        mp = self.mp
        coarse, fine, size = self._rules(a, b)
        allowed = _TOLERANCE * max(size, scale)
        if abs(fine - coarse) <= allowed:
            return fine
        if depth == 2:
            # a power or logarithm at an end defeats Gauss-Legendre, not tanh-sinh
            unit = size or mp.one
            scaled = lambda u: self._g(a + (b - a) * u) * (b - a) / unit  # noqa: E731
            total, error = mp.quad(scaled, [0, 1], error=True)
            if error * unit <= allowed:
                return total * unit
        if depth == _DEPTH:
            return None
        middle = (a + b) / 2
        left = self._adaptive(a, middle, scale, depth + 1)
        right = None if left is None else self._adaptive(middle, b, scale, depth + 1)
        return None if right is None else left + right

    def _rules(self, a: Any, b: Any) -> tuple[Any, Any, Any]:
        half, centre = (b - a) / 2, (a + b) / 2
        sums, size = [], self.mp.zero
        for nodes in self._nodes:
            values = [(w, self._g(centre + half * t)) for t, w in nodes]
            sums.append(half * self.mp.fsum(w * v for w, v in values))
            size = abs(half) * self.mp.fsum(w * abs(v) for w, v in values)
        return sums[0], sums[1], size
