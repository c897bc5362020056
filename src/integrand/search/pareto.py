"""Many objectives, all minimised: a Pareto archive, and the one number that strategies are told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Objectives = Mapping[str, float]


def dominates(a: Objectives, b: Objectives) -> bool:
    """Whether a is nowhere worse than b and somewhere better."""
    return all(a[k] <= b[k] for k in b) and any(a[k] < b[k] for k in b)


@dataclass
class Archive:
    """The candidates that no other one dominates, by key. Of equal ones the first stays."""

    front: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, key: str, objectives: Objectives) -> bool:
        """Whether the candidate is on the front now; objectives that are not finite never are."""
        if not all(map(math.isfinite, objectives.values())):
            return False
        if any(dominates(o, objectives) or o == dict(objectives) for o in self.front.values()):
            return False
        self.front = {k: o for k, o in self.front.items() if not dominates(objectives, o)}
        self.front[key] = dict(objectives)
        return True


def scalar(objectives: Objectives, weights: Mapping[str, float]) -> float | None:
    """max_k w_k o_k + 0.05 sum_k w_k o_k over the weighted objectives: the augmented Chebyshev
    rule, which unlike a weighted sum reaches every part of a front.

    1 / w_k is how much of objective k is worth one unit. One weighted objective is told as itself,
    times 1.05 w. None where a value is missing or not finite.
    """
    values = [objectives.get(k, math.nan) for k in weights]
    if not all(map(math.isfinite, values)):
        return None
    parts = [w * v for w, v in zip(weights.values(), values, strict=True)]
    return max(parts) + 0.05 * sum(parts)
