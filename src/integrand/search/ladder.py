"""Successive halving, asynchronous: who goes on to the next rung, from what is known so far.

A candidate climbs when it is in the top share of those scored at its rung until now: nobody waits
for a rung to be complete, and one that was passed over climbs later if worse ones follow. Source:
arXiv:1810.05934. Ours: of those passed over a few are taken along by chance, one for every four
that climb, so that the correlation between rungs is not that of the selected alone; and what began
as a reference climbs every rung that does not refuse it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from integrand.search.rung import Rung
from integrand.search.strategy import Standing

PER_CHANCE = 4


class Step(NamedTuple):
    """An evaluation to make: the place of a rung, a candidate's key, "merit", "chance" or
    "reference"."""

    place: int
    key: str
    why: str


class Correlation(NamedTuple):
    """Kendall's tau-b between the scores of two rungs, over the candidates scored at both, of which
    `chance` were taken along by chance. tau is None below three, or where all are equal."""

    tau: float | None
    pairs: int
    chance: int


@dataclass
class _Floor:
    """What is known at one rung."""

    scores: dict[str, float] = field(default_factory=dict)
    merits: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    order: list[tuple[float, str]] = field(default_factory=list)
    begun: dict[str, str] = field(default_factory=dict)  # key -> why; waiting and running too


class Ladder:
    """The rungs, and every candidate's scores at each."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self.rungs = rungs
        self.floors = [_Floor() for _ in rungs]

    def begin(self, place: int, key: str, why: str) -> None:
        """An evaluation is asked for: nobody else need make it."""
        self.floors[place].begun.setdefault(key, why)

    def lose(self, place: int, key: str) -> None:
        """It was lost, and has to be made again."""
        self.floors[place].begun.pop(key, None)

    def score(self, place: int, key: str, score: float, merit: float | None = None) -> None:
        """It is done. `merit`, the score by default, decides who climbs; lower is better."""
        floor = self.floors[place]
        if key in floor.scores:
            return
        floor.scores[key] = score
        floor.merits[key] = score if merit is None else merit
        insort(floor.order, (floor.merits[key], key))

    def refuse(self, place: int, key: str, reason: str) -> None:
        """It is done, and the candidate goes no further."""
        self.floors[place].refused[key] = reason

    def rank(self, place: int, key: str) -> int:
        """How many of those scored at a rung are better."""
        floor = self.floors[place]
        return bisect_left(floor.order, (floor.merits[key], key))

    def climbs(self, place: int, key: str) -> bool:
        """Whether a scored candidate is in the share of its rung that goes on."""
        return place + 1 < len(self.rungs) and self.rank(place, key) < self._quota(place)

    def standing(self, place: int, key: str) -> Standing:
        """What strategies are told: of two candidates the one that came higher is better, of two at
        one rung the one of less merit. Ranks among those scored so far would not stay
        comparable: each was the best of its time."""
        return Standing(len(self.rungs) - 1 - place, self.floors[place].merits[key])

    def next(self, rng: np.random.Generator) -> Step | None:
        """Who goes on now: references first, then on merit, from the highest rung down, else one by
        chance."""
        references = self.references()
        for place in range(len(self.rungs) - 2, -1, -1):
            above = self.floors[place + 1].begun
            for key in references:
                if key in self.floors[place].scores and key not in above:
                    return Step(place + 1, key, "reference")
            for _, key in self.floors[place].order[: self._quota(place)]:
                if key not in above:
                    return Step(place + 1, key, "merit")
        for place in range(len(self.rungs) - 1):
            above = self.floors[place + 1].begun
            reasons = list(above.values())
            if reasons.count("merit") < PER_CHANCE * (reasons.count("chance") + 1):
                continue
            if left := [key for _, key in self.floors[place].order if key not in above]:
                return Step(place + 1, left[rng.integers(len(left))], "chance")
        return None

    def references(self) -> list[str]:
        """The keys of those that began as references."""
        return [key for key, why in self.floors[0].begun.items() if why == "reference"]

    def _quota(self, place: int) -> int:
        return int(self.rungs[place].keep * len(self.floors[place].order) + 1e-9)

    def correlation(self, place: int) -> Correlation:
        """Of a rung with the next one."""
        lower, upper = self.floors[place], self.floors[place + 1]
        both = [key for key in upper.scores if key in lower.scores]
        chance = sum(upper.begun.get(key) == "chance" for key in both)
        tau = kendall(*([floor.scores[key] for key in both] for floor in (lower, upper)))
        return Correlation(tau, len(both), chance)


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """tau-b: concordant less discordant pairs over the geometric mean of those untied in a and
    in b."""
    x, y = np.asarray(a), np.asarray(b)
    agree = untied_x = untied_y = 0.0
    for i in range(len(x)):
        s, t = np.sign(x[i] - x[:i]), np.sign(y[i] - y[:i])
        agree, untied_x, untied_y = agree + s @ t, untied_x + s @ s, untied_y + t @ t
    if len(x) < 3 or not untied_x * untied_y:
        return None
    return float(agree / math.sqrt(untied_x * untied_y))
