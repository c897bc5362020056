"""Errors at every half-precision input."""

import pytest
import torch

import integrand as ig
from integrand.certificate import certify
from integrand.report.sweep import CEILING, sweep


@pytest.fixture(scope="module")
def relu2():
    return ig.activation("relu2")


def test_all_finite_patterns_are_there_in_ascending_groups(relu2):
    swept = sweep(relu2, bins=64)
    # 65,536 patterns less those of the all-ones exponent
    assert swept["points"] == 65536 - 2 * 2**7
    assert swept["edges"] == sorted(swept["edges"])
    largest = float(torch.finfo(torch.bfloat16).max)
    assert swept["edges"][0] == -largest and swept["edges"][-1] == largest
    assert len(swept["f"]["worst"]) == len(swept["df"]["mean"]) == 64


def test_worst_of_the_groups_is_the_worst_of_the_certificate(relu2):
    swept, cert = sweep(relu2), certify(relu2, thorough=False)
    assert max(swept["f"]["worst"]) == cert.max_ulp_f <= 1
    assert max(swept["df"]["worst"]) == cert.max_ulp_df <= 1


def test_a_wrong_candidate_shows_where_it_is_wrong(relu2):
    def steeper_above_one(x):
        return torch.where(x > 1, 1.5 * x * x, torch.relu(x) * x)

    swept = sweep(relu2, candidate=steeper_above_one, bins=64)
    wrong = [worst > 1 for worst in swept["f"]["worst"]]
    above = [edge > 1 for edge in swept["edges"][1:]]
    overflowed = [edge > 2.0**64 for edge in swept["edges"][:-1]]
    for i in range(64):
        assert wrong[i] == (above[i] and not overflowed[i]) or swept["edges"][i] < 1e19
    assert max(swept["f"]["worst"]) <= CEILING
    assert not any(wrong[:32]) and sum(wrong) > 5
