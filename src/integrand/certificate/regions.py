"""Where a rule is broken: neighbouring failing points joined into intervals."""

from __future__ import annotations

import numpy as np

from integrand.certificate.certificate import Failure, Region
from integrand.certificate.comparison import Comparison


def regions(c: Comparison, most: int = 5, gap: int = 8) -> list[Region]:
    """The intervals with the most failing points; up to `gap` passing points do not split one."""
    order = np.argsort(c.x, kind="stable")
    places = np.flatnonzero(c.broken[order])
    if len(places) == 0:
        return []
    runs = np.split(places, np.flatnonzero(np.diff(places) > gap) + 1)
    found = []
    for run in runs:
        members = order[run]
        worst = members[np.argmax(np.nan_to_num(c.error[members], posinf=1e308))]
        found.append(
            Region(
                c.output,
                float(c.x[members[0]]),
                float(c.x[members[-1]]),
                len(members),
                float(c.error[worst]),
                float(c.x[worst]),
            )
        )
    return sorted(found, key=lambda r: -r.points)[:most]


def failures(c: Comparison, most: int = 5) -> list[Failure]:
    """The worst points of each kind."""
    found = []
    kinds = {
        "wrong sign": c.wrong_sign,
        "infinity or NaN": c.nonfinite,
        "too far off": c.broken & ~c.wrong_sign & ~c.nonfinite,
    }
    for why, mask in kinds.items():
        places = np.flatnonzero(mask)
        for i in places[np.argsort(-c.error[places], kind="stable")][:most]:
            found.append(
                Failure(c.output, float(c.x[i]), float(c.computed[i]), float(c.exact[i]), why)
            )
    return found
