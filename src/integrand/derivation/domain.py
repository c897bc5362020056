"""A gradient must be finite on all reals, a function must not jump: checked before deriving."""

from __future__ import annotations

from typing import Any

from mpmath import mp

from integrand.derivation.exact import breakpoints, exact
from integrand.derivation.pieces import draws
from integrand.errors import SpecError
from integrand.spec import Spec


def check_domain(spec: Spec) -> None:
    """Raise `SpecError` where the text has no finite real value, a pole, or (a function) a jump."""
    with mp.workdps(30):
        for _, values in zip(range(2), draws(spec), strict=False):
            params = {k: mp.mpf(repr(v)) for k, v in values.items()}
            cuts = breakpoints(spec.node, params, mp)
            grid = _grid(cuts)
            sizes = [_value(spec, x, params) for x in grid]
            _check_poles(spec, grid, sizes, params)
            if spec.kind == "function":
                _check_jumps(spec, cuts, params)


def _grid(cuts: list[Any]) -> list[Any]:
    scales = [mp.mpf(2) ** (mp.mpf(k) / 4) for k in range(-40, 60)]
    points = {mp.mpf(0)} | {s * v for v in scales for s in (1, -1)}
    points |= {c + s * mp.mpf("1e-12") for c in cuts for s in (-1, 0, 1)}
    # poles sit at simple numbers more often than not
    points |= {mp.mpf(k) / 20 for k in range(-200, 201)}
    return sorted(points)


def _value(spec: Spec, x: Any, params: dict[str, Any]) -> Any:
    try:
        value = exact(spec.node, x, params, mp)
    except (ZeroDivisionError, ValueError, OverflowError):
        value = mp.nan
    if isinstance(value, mp.mpc) or not mp.isfinite(value):
        raise SpecError(
            f"the {spec.kind} '{spec.gradient or spec.function}' must be finite and real for every"
            f" x, but it is not at x = {mp.nstr(x, 6)}"
        )
    return value


def _check_poles(spec: Spec, grid: list[Any], values: list[Any], params: dict[str, Any]) -> None:
    """Zoom into every local maximum of |value|: at a pole it keeps growing."""
    size = [abs(v) for v in values]
    for i in range(1, len(grid) - 1):
        plateau = size[i - 1] == size[i] == size[i + 1]
        if plateau or size[i] < max(size[i - 1], size[i + 1], 1):
            continue
        _check_growth(spec, grid[i], size[i], max(size[i - 1], size[i + 1]) + 1)
        low, high = grid[i - 1], grid[i + 1]
        height, stalled = size[i], 0
        while stalled < 3:
            step = (high - low) / 4
            points = [low + k * step for k in range(5)]
            heights = [abs(_value(spec, x, params)) for x in points]
            top = heights.index(max(heights))
            low, high = points[max(top - 1, 0)], points[min(top + 1, 4)]
            _check_growth(spec, points[top], max(heights), size[i])
            stalled = stalled + 1 if max(heights) < 1.2 * height else 0
            height = max(heights)


def _check_growth(spec: Spec, x: Any, size: Any, around: Any) -> None:
    if size > 1e6 * around:
        raise SpecError(
            f"the {spec.kind} '{spec.gradient or spec.function}' must be finite on all reals, but"
            f" it grows without bound near x = {mp.nstr(x, 6)}"
        )


def _check_jumps(spec: Spec, cuts: list[Any], params: dict[str, Any]) -> None:
    step = mp.mpf("1e-18")
    for cut in cuts:
        left, at, right = (_value(spec, cut + d, params) for d in (-step, 0, step))
        if max(abs(left - at), abs(right - at)) > mp.mpf("1e-12") * (1 + abs(at)):
            raise SpecError(
                f"a function must not jump, but '{spec.function}' goes from {mp.nstr(left, 6)} to"
                f" {mp.nstr(right, 6)} at x = {mp.nstr(cut, 6)}; declare its pieces so that they"
                " meet"
            )
