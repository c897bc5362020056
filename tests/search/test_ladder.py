"""Who climbs, when, and how the correlation of rungs is measured."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from integrand.search.ladder import PER_CHANCE, Ladder, Step
from integrand.search.rung import Rung

RNG = np.random.default_rng(0)


def ladder(*keep: float) -> Ladder:
    return Ladder([Rung(str(i), lambda _: {}, 1.0, share) for i, share in enumerate(keep)])


def scored(the: Ladder, place: int, **scores: float) -> None:
    for key, score in scores.items():
        the.begin(place, key, "new")
        the.score(place, key, score)


def test_the_top_share_of_those_scored_until_now_climbs() -> None:
    the = ladder(1 / 3, 1.0)
    scored(the, 0, a=3.0, b=2.0)
    assert the.next(RNG) is None
    scored(the, 0, c=1.0)
    assert the.next(RNG) == Step(1, "c", "merit")
    the.begin(1, "c", "merit")
    assert the.next(RNG) is None
    scored(the, 0, d=9.0, e=8.0, f=7.0)
    # passed over before, b is among the first two of six now
    assert the.next(RNG) == Step(1, "b", "merit")
    assert the.climbs(0, "b") and not the.climbs(0, "a") and not the.climbs(1, "c")


def test_higher_rungs_come_first_and_what_was_lost_comes_again() -> None:
    the = ladder(0.5, 0.5, 1.0)
    scored(the, 0, a=1.0, b=2.0, c=3.0, d=4.0)
    scored(the, 1, a=1.0, b=2.0)
    assert the.next(RNG) == Step(2, "a", "merit")
    the.begin(2, "a", "merit")
    assert the.next(RNG) is None
    the.lose(2, "a")
    assert the.next(RNG) == Step(2, "a", "merit")


def test_the_refused_neither_climb_nor_count() -> None:
    the = ladder(0.5, 1.0)
    for key in "abcdef":
        the.begin(0, key, "new")
        the.refuse(0, key, "a pole")
    scored(the, 0, g=1.0)
    assert the.next(RNG) is None
    scored(the, 0, h=2.0)
    assert the.next(RNG) == Step(1, "g", "merit")


def test_one_of_those_passed_over_is_taken_along_for_every_four_that_climb() -> None:
    the = ladder(0.5, 1.0)
    scored(the, 0, **{f"k{i:02}": float(i) for i in range(40)})
    taken = []
    while step := the.next(RNG):
        the.begin(*step)
        taken.append(step)
    merit = [s.key for s in taken if s.why == "merit"]
    chance = [s.key for s in taken if s.why == "chance"]
    assert merit == [f"k{i:02}" for i in range(20)]
    assert len(chance) == 20 // PER_CHANCE and set(chance) <= {f"k{i:02}" for i in range(20, 40)}


def test_a_reference_climbs_every_rung_that_does_not_refuse_it() -> None:
    the = ladder(0.5, 0.5, 1.0)
    the.begin(0, "known", "reference")
    assert the.next(RNG) is None
    the.score(0, "known", 9.0)
    scored(the, 0, a=1.0, b=2.0)
    assert the.next(RNG) == Step(1, "known", "reference")
    the.begin(1, "known", "reference")
    the.score(1, "known", 9.0)
    assert the.next(RNG) == Step(2, "known", "reference")
    the.begin(2, "known", "reference")
    the.refuse(2, "known", "a hang")
    assert the.next(RNG) == Step(1, "a", "merit")
    assert the.references() == ["known"]


def test_merit_decides_and_standings_compare_across_rungs() -> None:
    the = ladder(0.5, 1.0)
    for key, score, merit in (("a", 1.0, 9.0), ("b", 2.0, 1.0), ("c", 3.0, 2.0), ("d", 4.0, 3.0)):
        the.begin(0, key, "new")
        the.score(0, key, score, merit)
    assert the.next(RNG) == Step(1, "b", "merit")
    assert [the.standing(0, key) for key in "bcda"] == [(1, 1.0), (1, 2.0), (1, 3.0), (1, 9.0)]
    scored(the, 1, b=5.0)
    assert the.standing(1, "b") == (0, 5.0) < the.standing(0, "b")


@pytest.mark.parametrize("seed", range(3))
def test_the_correlation_is_kendalls_over_those_on_both_rungs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    the = ladder(0.5, 1.0)
    below, above = rng.standard_normal(30), np.round(rng.standard_normal(30), 1)  # with ties
    scored(the, 0, **{f"k{i}": v for i, v in enumerate(below)})
    for i in range(20):
        the.begin(1, f"k{i}", "chance" if i < 5 else "merit")
        the.score(1, f"k{i}", above[i])
    the.begin(1, "k25", "merit")
    the.refuse(1, "k25", "a hang")
    found = the.correlation(0)
    assert found == (pytest.approx(kendalltau(below[:20], above[:20]).statistic), 20, 5)
    assert -1 < found.tau < 1


def test_no_correlation_of_two_or_of_equals() -> None:
    the = ladder(1.0, 1.0)
    scored(the, 0, a=1.0, b=2.0)
    scored(the, 1, a=1.0, b=2.0)
    assert the.correlation(0) == (None, 2, 0)
    scored(the, 0, c=3.0)
    scored(the, 1, c=1.0)
    assert the.correlation(0).tau is not None
    same = ladder(1.0, 1.0)
    scored(same, 0, a=1.0, b=1.0, c=1.0)
    scored(same, 1, a=1.0, b=2.0, c=3.0)
    assert same.correlation(0) == (None, 3, 0)
