"""One output against the truth: bounded fp64 decides where it can, multi-precision the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from integrand.certificate.formats import Format

Array = np.ndarray[Any, Any]

# points left to multi-precision beyond this number would take minutes
MOST_UNDECIDED = 40_000
# and so would all of a function that is off everywhere; a half-precision certificate fails by one
MOST_BROKEN = 256


@dataclass(frozen=True)
class Rule:
    """The error allowed at a point whose exact value is v and whose largest term is t:
    max(`ulps` * factor * spacing(v), `term` * t, `relative` * |v|), factor given per point."""

    ulps: float
    term: float
    relative: float = 0.0

    def allowed(self, fmt: Format, value: Array, terms: Array, factor: Array | float) -> Array:
        """The allowed absolute error."""
        with np.errstate(all="ignore"):
            spacing = self.ulps * factor * fmt.spacing(value)
            band = np.nan_to_num(self.term * terms, nan=0.0, posinf=0.0)
            relative = np.where(np.isfinite(value), self.relative * np.abs(value), 0.0)
        return np.maximum(np.maximum(spacing, band), relative)


@dataclass
class Comparison:
    """Per point of x: the error in allowed units of one ulp, and what broke the rule.

    `error` counts in ulps, next to a root in units of the band that replaces the ulp there;
    `broken` is everything the rule forbids, `wrong_sign` and `nonfinite` are two of its reasons.
    """

    output: str
    x: Array
    computed: Array
    exact: Array
    error: Array
    broken: Array
    wrong_sign: Array
    nonfinite: Array
    by_multiprecision: int
    undecided: int

    def or_worse(self, other: Comparison) -> Comparison:
        """Of two comparisons at the same points, the worse at each."""
        take = other.error > self.error
        take = np.where(self.broken == other.broken, take, other.broken)
        arrays = {
            k: np.where(take, getattr(other, k), v)
            for k, v in vars(self).items()
            if isinstance(v, np.ndarray)
        }
        return replace(
            self,
            **arrays,
            by_multiprecision=self.by_multiprecision + other.by_multiprecision,
            undecided=self.undecided + other.undecided,
        )


def compare(
    output: str,
    fmt: Format,
    rule: Rule,
    x: Array,
    computed: Array,
    value: Array,
    bound: Array,
    terms: Array,
    factor: Array | float,
    exact: Callable[[float], Any],
) -> Comparison:
    """Compare computed values at finite x with fp64 values known to +-bound.

    `exact(x)` is the multi-precision value of a point that fp64 cannot decide, None if unknown.
    """
    value, bound = value.copy(), bound.copy()
    factor = np.broadcast_to(np.asarray(factor, dtype=float), x.shape)
    # fp64 overflow: beyond every format here, which the sampled agreement confirms
    beyond = np.isinf(value) & (computed == value)
    doubtful = ~beyond & ~(np.isfinite(value) & np.isfinite(bound))
    comparable = np.isfinite(computed) & np.isfinite(value) & ~doubtful
    with np.errstate(all="ignore"):
        error = np.abs(computed - value)
        low = rule.allowed(fmt, np.maximum(np.abs(value) - bound, 0.0), terms, factor)
        high = rule.allowed(fmt, np.abs(value) + bound, terms, factor)
        clear = (error + bound <= low) | (error - bound > high)
        signs = (computed * value < 0) & (np.abs(value) > bound)
        overflow_clear = np.abs(np.abs(value) - fmt.largest / 2) > bound
    unclear_sign = (computed != 0) & (np.abs(value) <= bound) & (bound > 0)
    doubtful |= comparable & (~clear | unclear_sign)
    doubtful |= np.isinf(computed) & np.isfinite(value) & ~overflow_clear
    todo = np.flatnonzero(doubtful & ~np.isnan(computed))
    # from end to end, so that the first ones stand for all
    todo = np.concatenate([todo[k::64] for k in range(64)])
    known = broken = 0
    for i in todo[:MOST_UNDECIDED]:
        if fmt.half and broken == MOST_BROKEN:
            break
        if (v := exact(float(x[i]))) is None:
            continue
        known += 1
        value[i] = float(v)
        error[i] = float(abs(v - computed[i])) if np.isfinite(computed[i]) else np.inf
        signs[i] = bool(np.sign(computed[i]) * v < 0)
        broken += bool(error[i] > rule.allowed(fmt, value[i], terms[i], factor[i]))
    undecided = len(todo) - known
    return _verdict(
        output, fmt, rule, x, computed, value, error, signs, terms, factor, known, undecided
    )


def _verdict(
    output: str,
    fmt: Format,
    rule: Rule,
    x: Array,
    computed: Array,
    value: Array,
    error: Array,
    signs: Array,
    terms: Array,
    factor: Array,
    settled: int,
    undecided: int,
) -> Comparison:
    allowed = rule.allowed(fmt, value, terms, factor)
    unit = Rule(1.0, rule.term / rule.ulps).allowed(fmt, value, terms, 1.0)
    band = np.nan_to_num(rule.term * terms, nan=0.0, posinf=0.0)
    infinite = np.isinf(computed)
    permitted = infinite & (np.abs(value) > fmt.largest / 2) & (np.sign(computed) == np.sign(value))
    nonfinite = ~np.isfinite(computed) & ~permitted
    with np.errstate(all="ignore"):
        error = np.where(permitted, 0.0, np.where(nonfinite, np.inf, error))
        ratio = np.where(error == 0, 0.0, error / unit)
    # where arguments are ill-conditioned, fp32 and fp64 may lose the sign too
    wrong_sign = signs & (error > (band if fmt.half else allowed)) & np.isfinite(computed)
    broken = (error > allowed) | nonfinite | wrong_sign
    return Comparison(
        output, x, computed, value, ratio, broken, wrong_sign, nonfinite, settled, undecided
    )
