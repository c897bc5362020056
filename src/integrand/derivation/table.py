"""A certified table: a parameter-free function of one variable as piecewise polynomials.

|u| < 2**lo is one polynomial in u (so that relative accuracy survives near 0); each octave
[2**e, 2**(e+1)), lo <= e < hi, is cut into 2**split equal segments with one polynomial each in the
local coordinate t in [-1, 1); |u| >= 2**hi is `growth` plus a polynomial in 2**hi / |u|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Coefficients, ascending powers, one side of 0 after the other: `[negative, positive]`.

    - `near[side]`: the polynomial P with value = u * P(|u| / 2**lo)
    - `middle[side][segment]`: polynomial in t of the segment
    - `growth[side]`: (a2, a1, l, e) of a2 u^2 + a1 u + l log|u| + e u log|u| in the tail
    - `far[side]`: the polynomial in 2**hi / |u| added to the growth
    """

    name: str
    lo: int
    hi: int
    split: int
    near: tuple[tuple[float, ...], ...]
    middle: tuple[tuple[tuple[float, ...], ...], ...]
    growth: tuple[tuple[float, ...], ...]
    far: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """The table stored by `dataclasses.asdict`, lists turned back into tuples."""

        def freeze(v: Any) -> Any:
            return tuple(map(freeze, v)) if isinstance(v, list | tuple) else v

        return cls(**{k: freeze(v) for k, v in data.items()})
