"""Estimates, verdicts and detectable effects against scipy, published values and simulation."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from integrand.errors import Error
from integrand.train.studies.statistics import (
    estimate,
    holm,
    min_detectable_effect,
    paired,
    power,
    seeds_needed,
    verdict,
)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_a_paired_comparison_is_scipys(n):
    draw = np.random.default_rng(n)
    a, b = draw.normal(3, 1, n), draw.normal(2.5, 1, n)
    found, known = paired(a.tolist(), b.tolist()), stats.ttest_rel(b, a)
    interval = known.confidence_interval()
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)
    assert found.ci == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.mean == pytest.approx(float(np.mean(b - a))) and found.n == n


def test_one_pair_has_neither_interval_nor_verdict():
    found = paired([3.0], [2.0])
    assert (found.mean, found.sd, found.ci, found.p) == (-1.0, None, None, None)
    assert verdict(found.mean, found.p) == "cannot tell"


def test_equal_pairs_are_no_difference():
    assert paired([3.0, 2.0], [3.0, 2.0]).p == 1.0
    assert verdict(0.0, 1.0) == "cannot tell"


def test_pairs_must_have_both_sides():
    with pytest.raises(Error, match="got 2 and 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(Error, match="at least one"):
        estimate([])


def test_holm_gives_the_values_of_its_definition():
    # 0.01*4, 0.02*3, 0.03*2 raised to the one before, 0.5
    assert holm([0.03, 0.01, None, 0.5, 0.02]) == pytest.approx([0.09, 0.05, None, 1.0, 0.08])


@pytest.mark.parametrize("n", [3, 5, 12])
def test_power_is_the_integral_over_the_spread(n):
    critical = stats.t.ppf(0.975, n - 1)

    def given_spread(u):
        scaled = critical * u / math.sqrt(n - 1)
        shift = 1.5 * math.sqrt(n)
        tails = stats.norm.sf(scaled - shift) + stats.norm.cdf(-scaled - shift)
        return tails * stats.chi.pdf(u, n - 1)

    exact, _ = integrate.quad(given_spread, 0, np.inf, epsabs=1e-10)
    assert power(1.5, 1.0, n) == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.001])
@pytest.mark.parametrize("n", [2, 3, 5, 8, 40])
def test_the_detectable_effect_has_the_power_asked_for(n, alpha):
    effect = min_detectable_effect(0.3, n, alpha)
    assert power(effect, 0.3, n, alpha) == pytest.approx(0.8, abs=1e-6)


def test_the_detectable_effect_is_the_textbooks():
    # Cohen's d = 0.5, two-sided 0.05, power 0.8: 34 pairs (G*Power's manual)
    assert min_detectable_effect(1.0, 34) < 0.5 < min_detectable_effect(1.0, 33)
    assert seeds_needed(1.0, 0.5) == 34
    assert min_detectable_effect(1.0, 1) == math.inf


def test_seeds_stay_between_their_bounds():
    assert seeds_needed(1.0, 100.0) == 5 and seeds_needed(1.0, 1e-3, at_most=9) == 9
    with pytest.raises(Error, match="above 0"):
        seeds_needed(1.0, 0.0)


@pytest.mark.parametrize(("effect", "rate"), [(0.0, 0.05), (None, 0.8)])
def test_verdicts_come_as_often_as_they_should(effect, rate):
    n, runs = 5, 2000
    effect = min_detectable_effect(1.0, n) if effect is None else effect
    draws = np.random.default_rng(1).normal(-effect, 1.0, (runs, n))
    said = [verdict(e.mean, e.p) for e in map(estimate, draws.tolist())]
    decided = runs - said.count("cannot tell")
    # four standard deviations of a binomial count
    assert abs(decided / runs - rate) < 4 * math.sqrt(rate * (1 - rate) / runs)
    if effect:
        assert said.count("worse") == 0


def test_correction_holds_the_chance_of_any_false_verdict():
    runs, families = 1000, 3
    draws = np.random.default_rng(2).normal(0, 1, (runs, families, 5))
    wrong = sum(
        any(p < 0.05 for p in holm([estimate(v).p for v in family])) for family in draws.tolist()
    )
    assert wrong / runs < 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
