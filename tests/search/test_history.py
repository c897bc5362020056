"""What strategies are told, and what a summary takes for the front, from records alone."""

import pytest

from integrand.search.candidate import Candidate
from integrand.search.history import History
from integrand.search.recipe import Recipe
from integrand.search.rung import Rung
from integrand.search.store import Outcome, Record
from integrand.search.strategy import Random, Standing
from integrand.search.summary import front
from integrand.search.templates import template_space

SPACE = template_space({"name": "n", "gradient": "{n}*x + 1", "choices": {"n": list(range(1, 41))}})
RUNGS = (Rung("low", lambda _: {}, 1.0, 0.5), Rung("high", lambda _: {}, 1.0))


class Told(Random):
    """All that it was told: the number in the gradient, and the standing."""

    def __init__(self) -> None:
        super().__init__(SPACE)
        self.told: list[tuple[int, Standing | None]] = []

    def tell(self, candidate: Candidate, standing: Standing | None) -> None:
        self.told.append((int(candidate.genome[0]), standing))


@pytest.fixture
def strategy() -> Told:
    return Told()


@pytest.fixture
def history(strategy: Told) -> History:
    return History(SPACE, strategy, RUNGS, {})


def score(history: History, rung: str, n: int, score: float, why: str = "new") -> None:
    genome = (str(n),)
    candidate, number = Candidate(SPACE.spec(genome), genome), history.count
    outcome = Outcome({"score": score})
    record = Record(number, number, rung, candidate.key, candidate.to_dict(), why, outcome=outcome)
    history.apply(record)


def test_who_climbs_later_is_told_again_and_stands_better(history: History, strategy: Told) -> None:
    score(history, "low", 1, 1.0)
    score(history, "low", 2, 2.0)
    score(history, "high", 1, 5.0, "merit")
    score(history, "low", 3, 0.5)  # climbs at once: told when it has arrived
    score(history, "high", 3, 1.0, "merit")
    assert strategy.told == [(1, (1, 1.0)), (2, (1, 2.0)), (1, (0, 5.0)), (3, (0, 1.0))]
    standings = [s for _, s in strategy.told if s]
    assert sorted(standings) == [standings[i] for i in (3, 2, 0, 1)]


def test_what_was_told_stays_comparable(history: History, strategy: Told) -> None:
    # each is the best of its time
    for n in (8, 4, 2, 1):
        score(history, "high", n, float(n))
    standings = [s for _, s in strategy.told if s]
    assert standings == sorted(standings, reverse=True) and len({*standings}) == 4


def test_by_chance_means_not_told_again(history: History, strategy: Told) -> None:
    score(history, "low", 1, 1.0)
    score(history, "low", 2, 2.0)
    score(history, "high", 2, 0.5, "chance")
    assert [n for n, _ in strategy.told] == [1, 2]


def test_the_front_is_that_of_the_highest_rung(history: History) -> None:
    recipe = Recipe("r", SPACE, "random", 1, RUNGS)
    for n in (1, 2, 3):
        score(history, "low", n, float(n))
    score(history, "high", 2, 9.0, "merit")
    score(history, "high", 3, 8.0, "chance")

    ((key, objectives),) = front(recipe, history).items()
    assert history.candidates[key].genome == ("3",) and objectives == {"score": 8.0}
