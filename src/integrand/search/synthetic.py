"""Synthetic tasks: small networks that train in seconds, from the numbers of f and g alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from integrand.errors import Error
from integrand.search.candidate import Candidate
from integrand.search.profile import profile
from integrand.search.rung import Rung
from integrand.search.tabulated import Tabulated
from integrand.search.toy_tasks import tasks
from integrand.search.toy_training import Toy, errors
from integrand.spec import Spec, row

REFERENCE = "silu"
FLOOR = 0.01  # of the error: below it all are equally good
FURTHEST = 2.0  # of a task from the reference, in nats: none decides alone


def log_errors(spec: Spec, toy: Toy) -> dict[str, float]:
    """By task, log(error + 0.01), a mean over seeds, at the best of the rates.

    Weights start with the gain 1 / sqrt(E f^2). Parameters of the activation stand at their initial
    values. Raises `Error` where training diverges at all rates.
    """
    p = profile(spec)
    act = Tabulated(p)
    gain = 1 / math.sqrt(p.mean(p.f**2))
    found: dict[str, float] = {}
    for name, task in tasks().items():
        means = (errors(toy, task, act, gain) + FLOOR).log().mean(1)
        finite: list[float] = means[means.isfinite()].tolist()
        if not finite:
            raise Error(
                f"'{spec.name}' must learn at one rate at least, got no finite error in {name}"
            )
        found[name] = min(finite)
    return found


@cache
def _reference(toy: Toy) -> dict[str, float]:
    return log_errors(row(REFERENCE).spec, toy)


@dataclass(frozen=True)
class Synthetic:
    """log(error + 0.01) above that of SiLU, within +-2: by task, and as their mean the "score"."""

    toy: Toy

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        found = log_errors(candidate.spec, self.toy)
        base = _reference(self.toy)
        parts = {k: min(max(v - base[k], -FURTHEST), FURTHEST) for k, v in found.items()}
        return {"score": sum(parts.values()) / len(parts), **parts}


def synthetic_rung(seconds: float = 120.0, keep: float = 1 / 4) -> Rung:
    """Seconds of one core per candidate."""
    return Rung("synthetic", Synthetic(Toy()), seconds, keep)
