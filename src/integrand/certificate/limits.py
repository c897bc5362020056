"""Limits at an infinity, from multi-precision values at growing |x|."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_EXPONENTS = (16, 64, 256, 1000)


def limit(value: Callable[[float], Any], sign: int) -> float | None:
    """The limit of `value` at sign * infinity; nan where there is none, None where the growth is
    too slow to tell."""
    points = [value(sign * 2.0**k) for k in _EXPONENTS]
    if any(v is None for v in points):
        return None
    first, second, third, last = points
    if last != last:
        return None
    if abs(last) == math.inf:
        # beyond the largest number of fp64, always on the same side
        return float(last) if (second > 0) == (third > 0) == (last > 0) else math.nan
    scale = max(1, abs(last))
    if abs(last - third) <= scale * 2.0**-60:
        return 0.0 if abs(last) < 2.0**-60 else float(last)
    grows = abs(first) < abs(second) < abs(third) < abs(last) and abs(last) > 1.5 * abs(third)
    if grows and (second > 0) == (last > 0) and (third > 0) == (last > 0):
        return math.inf if last > 0 else -math.inf
    if abs(last - third) < abs(third - second) / 2:
        return None
    return math.nan
