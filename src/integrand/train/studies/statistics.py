"""What runs that share a seed say about a difference, and what a number of seeds can show at all.

scipy evaluates Student's t, central and noncentral; nothing here is a normal approximation.
"""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from integrand.errors import Error

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n seeds with its 95 % interval, and the p-value of "it is 0" (two-sided t).

    One seed has neither spread nor interval: `sd`, `ci` and `p` are None.
    """

    n: int
    mean: float
    sd: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None


def estimate(values: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """The mean of independent values, one a seed, by Student's t."""
    n = len(values)
    if n == 0:
        raise Error("an estimate needs at least one value, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean)
    sd = statistics.stdev(values)
    if sd == 0:
        return Estimate(n, mean, 0.0, (mean, mean), float(mean == 0))
    t = scipy("stats").t
    error = sd / math.sqrt(n)
    half = error * float(t.ppf(1 - alpha / 2, n - 1))
    p = 2 * float(t.sf(abs(mean) / error, n - 1))
    return Estimate(n, mean, sd, (mean - half, mean + half), p)


def paired(a: Sequence[float], b: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """b - a over pairs in the same order: below 0 where b has the lower loss."""
    if len(a) != len(b):
        raise Error(f"pairs need as many losses of both sides, got {len(a)} and {len(b)}")
    return estimate([y - x for x, y in zip(a, b, strict=True)], alpha)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected by Holm for deciding about all of them; None stays None and counts.

    What was planned and could not be measured counts, or the data would choose the family.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for rank, (p, place) in enumerate(order):
        corrected[place] = floor = max(floor, min(1.0, p * (len(p_values) - rank)))
    return corrected


def verdict(difference: float, p: float | None, alpha: float = ALPHA) -> str:
    """Of b against a: "better" (lower loss), "worse" or "cannot tell"."""
    if p is None or p >= alpha or difference == 0:
        return "cannot tell"
    return "better" if difference < 0 else "worse"


def power(effect: float, sd: float, n: int, alpha: float = ALPHA) -> float:
    """The chance that n pairs with this standard deviation show an effect of this size."""
    stats = scipy("stats")
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(effect) * math.sqrt(n) / sd
    # the left tail as the right one of the mirror image: scipy's cdf answers NaN far out
    return float(sum(stats.nct.sf(critical, n - 1, s) for s in (shift, -shift)))


def min_detectable_effect(sd: float, n: int, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """The true difference that n pairs show with a chance of `wanted`; infinite below 2 pairs."""
    if n < 2:
        return math.inf
    return sd * _detectable(n, alpha, wanted) if sd else 0.0


@functools.cache
def _detectable(n: int, alpha: float, wanted: float) -> float:
    """The same in standard deviations."""
    optimize, t = scipy("optimize"), scipy("stats").t
    # power grows with the effect; an effect of 20 critical values is seen almost surely for any n
    most = 20 * float(t.ppf(1 - alpha / 2, n - 1)) / math.sqrt(n)
    return float(optimize.brentq(lambda e: power(e, 1.0, n, alpha) - wanted, 0.0, most))


def seeds_needed(
    sd: float,
    effect: float,
    at_least: int = 5,
    at_most: int = 40,
    alpha: float = ALPHA,
    wanted: float = POWER,
) -> int:
    """The fewest seeds, in [at_least, at_most], whose detectable effect is no larger than `effect`.

    At `at_most` the effect may still be out of reach: compare `min_detectable_effect` there.
    """
    if not effect > 0:
        raise Error(f"the effect to resolve must be above 0, got {effect}")
    few, enough = at_least - 1, at_most
    while enough - few > 1:
        n = (few + enough) // 2
        if min_detectable_effect(sd, n, alpha, wanted) <= effect:
            enough = n
        else:
            few = n
    return enough


def scipy(part: str) -> Any:
    """`optimize` or `stats` of scipy, an optional library."""
    try:
        from scipy import optimize, stats
    except ImportError:
        raise Error("the statistics of a study need scipy; pip install scipy") from None
    return {"optimize": optimize, "stats": stats}[part]
