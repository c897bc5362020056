"""The multi-precision context of a certificate."""

from __future__ import annotations

from typing import Any


def context() -> Any:
    """An mpmath context of its own, so that nobody else's precision changes.

    mpmath raises e to a large integer by repeated squaring, which takes up to a second; half a unit
    aside of the integer it reduces the argument instead.
    """
    import mpmath

    mp: Any = mpmath.MPContext()
    plain = mp.exp

    def exp(x: Any) -> Any:
        if not mp.isfinite(x) or mp.mag(x) < 20:
            return plain(x)
        with mp.workprec(mp.prec + int(mp.mag(x)) + 10):
            result = plain(x - 0.5) * plain(mp.mpf(0.5))
        return +result

    mp.exp = exp
    return mp
