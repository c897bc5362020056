import numpy as np
import pytest

from integrand.errors import Error
from integrand.train.studies.scaling import fit, trend

COMPUTE = [1e12, 1e13, 1e14, 1e15]


def law(c, E=2.0, A=3.0, a=0.1):
    return E + A * (c / 1e13) ** -a


def test_a_planted_law_is_found_again():
    found = fit(COMPUTE, [[law(c)] * 2 for c in COMPUTE])
    assert found.offset
    assert (found.E, found.a) == pytest.approx((2.0, 0.1), rel=1e-3)
    assert found.at(1e14) == pytest.approx(law(1e14), rel=1e-6)


def test_three_rungs_give_a_power_law_and_two_nothing():
    found = fit(COMPUTE[:3], [[law(c, E=0.0)] * 2 for c in COMPUTE[:3]])
    assert not found.offset and found.E == 0.0 and found.a == pytest.approx(0.1, rel=1e-9)
    with pytest.raises(Error, match="at least 3 rungs, got 2"):
        fit(COMPUTE[:2], [[1.0], [0.9]])


def test_intervals_of_the_exponent_hold_the_truth_as_often_as_they_say():
    # of 150 intervals 95 % within four standard deviations; a plain bootstrap holds 84 %: fails
    draw = np.random.default_rng(0)
    runs, held = 150, 0
    for _ in range(runs):
        losses = [list(law(c, E=0.0) + draw.normal(0, 0.01, 5)) for c in COMPUTE[:3]]
        low, high = fit(COMPUTE[:3], losses).ci["a"]
        held += low < 0.1 < high
    assert held / runs > 0.95 - 4 * (0.95 * 0.05 / runs) ** 0.5


def test_one_seed_has_no_interval():
    assert fit(COMPUTE[:3], [[3.0], [2.5], [2.0]]).ci is None


def test_a_shrinking_advantage_has_a_positive_trend_per_tenfold_compute():
    draw = np.random.default_rng(0)
    differences = [{s: -0.04 + 0.01 * i + draw.normal(0, 1e-3) for s in range(5)} for i in range(4)]
    differences[0][99] = 5.0  # a seed of one rung alone does not count
    found = trend(COMPUTE, differences)
    assert found.n == 5 and found.ci[0] < 0.01 < found.ci[1] and found.p < 1e-3
    with pytest.raises(Error, match="share 0 seeds"):
        trend(COMPUTE[:2], [{0: 1.0}, {1: 1.0}])
