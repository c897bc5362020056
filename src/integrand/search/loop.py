"""A search in this process, one candidate after the other: what engines do at scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from integrand.search.candidate import Candidate
from integrand.search.history import History
from integrand.search.rung import Rung
from integrand.search.store import Outcome, Record
from integrand.search.strategy import Strategy


@dataclass(frozen=True)
class Evaluation:
    """A candidate that was evaluated, its score, and how many were asked for until then."""

    candidate: Candidate
    score: float | None
    asked: int


def evaluations(
    strategy: Strategy, objective: Callable[[Candidate], float | None], asks: int
) -> Iterator[Evaluation]:
    """Ask `asks` times; strategies are told what `History` tells them in a search of one rung."""
    rung = Rung("objective", lambda _: {}, math.inf)
    history = History(strategy.space, strategy, [rung], {})

    def settle(candidate: Candidate, outcome: Outcome) -> None:
        number = history.count
        history.apply(
            Record(
                number, number, rung.name, candidate.key, candidate.to_dict(), "new",
                outcome=outcome,
            )
        )  # fmt: skip

    for asked in range(1, asks + 1):
        candidate = strategy.ask()
        if candidate is None:
            return
        if found := history.find(candidate):
            settle(candidate, Outcome(same_as=found))
            continue
        score = objective(candidate)
        numbers = None if score is None else {"score": score}
        yield Evaluation(candidate, score, asked)
        settle(candidate, Outcome(numbers))
