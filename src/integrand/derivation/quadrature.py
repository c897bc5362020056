"""Multi-precision quadrature of what is smooth between its cuts: Gauss-Legendre rules, each with
twice the nodes of the one before, until two agree; else tanh-sinh, which bears a singular end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

_DEGREES = (3, 4, 5)  # 12, 24 and 48 nodes
_SPARE = 20  # bits


def quad(function: Callable[[Any], Any], stops: Sequence[Any], mp: Any) -> Any:
    """The integral over ascending stops, to four digits less than the precision in force."""
    return mp.fsum(_between(function, a, b, mp) for a, b in pairwise(stops))


def _between(function: Callable[[Any], Any], a: Any, b: Any, mp: Any) -> Any:
    allowed = mp.mpf(10) ** (4 - mp.dps)
    if mp.isfinite(a) and mp.isfinite(b):
        with mp.extraprec(_SPARE):
            half, centre = (b - a) / 2, (a + b) / 2
            before = None
            for degree in _DEGREES:
                nodes = _nodes(mp, mp.prec, degree)
                values = [(w, function(centre + half * t)) for t, w in nodes]
                total = half * mp.fdot(values)
                size = half * mp.fsum(abs(w * v) for w, v in values)
                if before is not None and abs(total - before) <= allowed * size:
                    return total
                before = total
    return mp.quad(function, [a, b])


@lru_cache(32)
def _nodes(mp: Any, precision: int, degree: int) -> Any:
    from mpmath.calculus.quadrature import GaussLegendre

    return GaussLegendre(mp).calc_nodes(degree, precision)
