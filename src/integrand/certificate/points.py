"""Points at which fp32 and fp64 are checked: a stratified sample and the adversarial ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from integrand.certificate.formats import Format

Array = np.ndarray[Any, Any]


def stratified(fmt: Format, count: int, seed: int = 0) -> Array:
    """About `count` finite numbers of a format: every exponent and both signs equally often."""
    rng = np.random.default_rng(seed)
    top = int(np.frexp(fmt.largest)[1])
    exponents = np.arange(fmt.emin - fmt.precision + 2, top)
    per = max(1, count // (2 * len(exponents)))
    if count < 2 * len(exponents):
        exponents = exponents[:: -(-2 * len(exponents) // count)]
    e = np.repeat(exponents, per)
    signs = np.where(rng.random(e.shape) < 0.5, -1.0, 1.0)
    both = np.concatenate([np.ldexp(rng.uniform(1, 2, e.shape), e) * s for s in (signs, -signs)])
    return to_format(fmt, both)


def to_format(fmt: Format, x: Array) -> Array:
    """Rounded to the format's numbers, as fp64; what rounds to infinity is left out."""
    rounded = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)).to(fmt.dtype)
    values = rounded.double().numpy()
    return np.unique(values[np.isfinite(values)])


def adversarial(fmt: Format, special: Iterable[float], neighbours: int = 2) -> Array:
    """The special points with their neighbours, zeros, subnormals, and the ends of the range."""
    tiny = 2.0**fmt.emin
    least = 2.0 ** (fmt.emin - fmt.precision + 1)
    found = [0.0]
    for size in (least, tiny - least, tiny / 2, tiny, tiny + least, fmt.largest, fmt.largest / 2):
        found += [size, -size]
    for point in special:
        centre = fmt.round(point)
        if not np.isfinite(centre):
            continue
        found.append(centre)
        for up in (True, False):
            x = centre
            for _ in range(neighbours):
                x = fmt.neighbour(x, up)
                found.append(x)
    return to_format(fmt, np.array(found))


def roots(function: Callable[[Array], Array], largest: float) -> list[float]:
    """Sign changes of a vectorised fp64 function on a fine logarithmic grid, bisected."""
    top = min(1000.0, np.log2(largest))
    size = np.exp2(np.arange(-60, top, 1 / 64))
    grid = np.concatenate([-size[::-1], [0.0], size])
    with np.errstate(all="ignore"):
        values = function(grid)
        change = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
        # an oscillation changes sign everywhere
        if len(change) > 200:
            change = change[np.argsort(np.abs(grid[change]))[:200]]
        a, b, fa = grid[change], grid[change + 1], values[change]
        for _ in range(70):
            middle = (a + b) / 2
            fm = function(middle)
            left = np.sign(fm) == np.sign(fa)
            a, b = np.where(left, middle, a), np.where(left, b, middle)
    return sorted({float(v) for v in a} | {float(v) for v in b})
