"""The first rung: validity and Gaussian integrals, in one pass over one grid."""

from __future__ import annotations

import math

from integrand.errors import Error
from integrand.search.candidate import Candidate
from integrand.search.gaussian import gaussian
from integrand.search.profile import profile
from integrand.search.rung import Rung
from integrand.search.validity import validity


def measured(candidate: Candidate) -> dict[str, float]:
    """The numbers of `Validity` and `Gaussian`; `active` P(g != 0). The score is
    |ln chi| + |ln |chi_parallel||, e-folds per layer by which small differences and sizes of
    signals grow or fade in a wide random network that keeps E f^2: 0 for ReLU.

    Raises `Error` where the candidate is no activation.
    """
    p = profile(candidate.spec)
    found = validity(p)
    if not found.ok:
        raise Error(found.reason)
    signals = gaussian(p)
    numbers = {k: v for k, v in signals.to_dict().items() if isinstance(v, float)}
    numbers |= {"mean": found.mean, "steepest": found.steepest, "active": 1 - found.flat}
    parallel = abs(signals.chi_parallel)
    drift = abs(math.log(signals.chi)) + abs(math.log(parallel) if parallel else math.inf)
    return numbers | {"score": drift}


def gaussian_rung(keep: float = 0.5) -> Rung:
    """`measured`, with 10 s at most; it takes milliseconds."""
    return Rung("gaussian", measured, seconds=10.0, keep=keep)
