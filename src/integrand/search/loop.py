"""A search in this process, one candidate after the other: what engines do at scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from integrand.search.candidate import Candidate
from integrand.search.equivalence import Seen, signature
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
    """Ask `asks` times; a candidate equivalent to an earlier one is told that one's score."""
    seen, scores = Seen(), dict[str, float | None]()
    for asked in range(1, asks + 1):
        candidate = strategy.ask()
        if candidate is None:
            return
        sign = signature(candidate.spec)
        key = seen.find(sign)
        if key is None:
            key = candidate.key
            seen.add(key, sign)
            scores[key] = objective(candidate)
            yield Evaluation(candidate, scores[key], asked)
        strategy.tell(candidate, scores[key])
