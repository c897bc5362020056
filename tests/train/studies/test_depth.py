import math

import pytest

import integrand as ig
from integrand.train.studies.depth import claim, direction, nonlinearity_by_layer, over_depth
from integrand.train.studies.statistics import Estimate


def test_relu_leaves_its_known_share_and_a_line_none():
    # Var relu = 1/2 - 1/(2 pi), Cov = 1/2; leaky with slope 1 is the identity
    act = ig.derive(ig.Spec(name="leak", gradient="1 if x > 0 else a", params={"a": ig.Param(0.5)}))
    relu, line = nonlinearity_by_layer(act, {"a": [0.0, 1.0]})
    assert relu == pytest.approx(1 - 0.25 / (0.5 - 0.5 / math.pi), abs=1e-12)
    assert line == pytest.approx(0.0, abs=1e-12)


def test_several_channels_count_with_their_mean():
    act = ig.activation("xielu")
    one, two = nonlinearity_by_layer(act, {"alpha_p": [0.2, 0.9], "alpha_n": [0.6, 0.8]})
    both = nonlinearity_by_layer(act, {"alpha_p": [[0.2, 0.9]], "alpha_n": [[0.6, 0.8]]})
    assert both == pytest.approx([(one + two) / 2], abs=1e-12) and one < two


def test_a_fall_over_depth_is_measured_from_first_to_last():
    found = over_depth([[0.4, 0.3, 0.2], [0.42, 0.3, 0.2]])
    assert found.mean == pytest.approx(-0.21) and found.n == 2


@pytest.mark.parametrize(
    ("change", "p", "word"),
    [
        (Estimate(5, -0.1, ci=(-0.12, -0.08)), 1e-4, "reproduced"),
        (Estimate(5, 0.1, ci=(0.08, 0.12)), 1e-4, "opposite"),
        (Estimate(5, -0.1, ci=(-0.3, 0.1)), 0.3, "cannot tell"),
        (Estimate(5, -0.001, ci=(-0.002, 0.001)), 0.3, "not reproduced"),
        (Estimate(1, -0.1), None, "cannot tell"),
    ],
)
def test_the_claim_is_decided_by_the_interval(change, p, word):
    assert claim(change, p) == word


def test_a_direction_needs_evidence():
    assert direction(Estimate(5, -1.0), 0.01) == "falls"
    assert direction(Estimate(5, -1.0), None) == "cannot tell"
