"""A synthetic objective whose optimum is known: the shape of a planted gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

from integrand.search.candidate import Candidate
from integrand.search.profile import profile
from integrand.search.validity import validity
from integrand.spec import Spec


def planted(target: Spec) -> Callable[[Candidate], float | None]:
    """The objective min over s > 0 of ||s g - t|| / ||t|| in L2 of N(0, 1), t the target's
    gradient: 0 where the two agree up to scale, 1 where no scale helps.

    Parameters of both stand at their initial values: nothing is fitted. None for a candidate that
    rung 0 refuses.
    """
    aim = profile(target)

    def objective(candidate: Candidate) -> float | None:
        p = profile(candidate.spec)
        if not validity(p).ok:
            return None
        t = aim.slope(p.x)
        cosine = p.mean(p.g * t) / math.sqrt(p.mean(p.g**2) * p.mean(t**2))
        return math.sqrt(max(0.0, 1 - max(cosine, 0.0) ** 2))

    return objective
