"""Loss against compute over a ladder of sizes, and whether an advantage survives the climb."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from integrand.errors import Error
from integrand.train.studies.statistics import ALPHA, Estimate, estimate

# rungs that a form needs: one more than it has parameters
RUNGS_POWER = 3
RUNGS_OFFSET = 4
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Fit:
    """L = E + A * (C / reference) ** -a, with C in FLOPs; `ci` are 95 % bootstrap intervals.

    `offset` says whether E was fitted; with too few rungs for it, it is 0.
    """

    E: float
    A: float
    a: float
    reference: float
    offset: bool
    ci: dict[str, tuple[float, float]] | None = None

    def at(self, compute: float) -> float:
        return self.E + self.A * (compute / self.reference) ** -self.a

    @property
    def form(self) -> str:
        return "E + A*(C/C0)^-a" if self.offset else "A*(C/C0)^-a"


def fit(compute: Sequence[float], losses: Sequence[Sequence[float]], seed: int = 0) -> Fit:
    """The fit to mean losses by rung; `losses` holds, per rung, one loss a seed.

    The intervals come from drawing the seeds of every rung again with replacement.

    Raises:
        Error: fewer than 3 rungs.
    """
    if len(compute) < RUNGS_POWER:
        raise Error(f"a fit over compute needs at least {RUNGS_POWER} rungs, got {len(compute)}")
    reference = math.exp(sum(map(math.log, compute)) / len(compute))
    c = np.asarray(compute) / reference
    offset = len(compute) >= RUNGS_OFFSET
    solve = _with_offset if offset else _power_law
    found = solve(c, np.array([np.mean(v) for v in losses]))
    ci = None
    if min(map(len, losses)) >= 2:
        draw = np.random.default_rng(seed)
        drawn = np.array([solve(c, _resampled(losses, draw)) for _ in range(RESAMPLES)])
        low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
        ci = {k: (float(low[i]), float(high[i])) for i, k in enumerate(("E", "A", "a"))}
    return Fit(*found, reference=reference, offset=offset, ci=ci)


def _resampled(losses: Sequence[Sequence[float]], draw: np.random.Generator) -> np.ndarray:
    """Means of resampled seeds, spread so that their variance is that of a mean of n seeds."""
    means = []
    for values in losses:
        n = len(values)
        mean = np.mean(values)
        # a bootstrap mean varies with (n - 1) / n of the unbiased variance: much, for five seeds
        spread = math.sqrt(n / (n - 1))
        means.append(mean + spread * (np.mean(draw.choice(values, n)) - mean))
    return np.array(means)


def _power_law(c: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    a, log_a = np.polyfit(np.log(c), np.log(y), 1)
    return 0.0, float(np.exp(log_a)), float(-a)


def _with_offset(c: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Least squares under E >= 0: E and A are linear once a is given, so one search over a."""
    try:
        from scipy.optimize import minimize_scalar
    except ImportError:
        raise Error("fits over a ladder need scipy; pip install scipy") from None

    def linear(log_a: float) -> tuple[float, float, float]:
        x = c ** -math.exp(log_a)
        gradient = float(np.dot(x - x.mean(), y) / np.dot(x - x.mean(), x))
        constant = float(y.mean() - gradient * x.mean())
        if constant < 0:
            constant, gradient = 0.0, float(np.dot(x, y) / np.dot(x, x))
        return constant, gradient, float(np.sum((constant + gradient * x - y) ** 2))

    bounds = (math.log(1e-3), math.log(3.0))
    log_a = float(minimize_scalar(lambda v: linear(v)[2], bounds=bounds, method="bounded").x)
    return *linear(log_a)[:2], math.exp(log_a)


def trend(compute: Sequence[float], differences: Sequence[Mapping[int, float]]) -> Estimate:
    """Change of a paired difference per tenfold compute: a slope per seed, then t over seeds.

    `differences` holds, per rung, the difference b - a by seed; seeds missing at a rung are left
    out, so that every slope spans the whole ladder.

    Raises:
        Error: fewer than 2 rungs, or no seed at every rung.
    """
    shared = set.intersection(*(set(d) for d in differences)) if differences else set()
    if len(compute) < 2 or not shared:
        raise Error(
            f"a trend needs seeds trained at 2 or more rungs, got {len(compute)} rungs that "
            f"share {len(shared)} seeds"
        )
    x = np.log10(compute)
    return estimate([slope_over(x, [d[s] for d in differences]) for s in sorted(shared)])


def slope_over(x: Any, y: Any) -> float:
    """Least-squares slope of y over x."""
    return float(np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)[0])
