from __future__ import annotations

import pytest
import torch

from integrand.certificate import certify
from integrand.certificate.box import box_points
from integrand.errors import CertificationError, SpecError

from .conftest import XIELU, HandMade, f64

BOX = {"alpha_p": (0.05, 10.0), "alpha_n": (0.51, 10.0)}


def test_a_failing_corner_is_found_and_named(defective: type[HandMade]) -> None:
    def f(x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        # at one input, for one corner's values
        wrong = (x == 1.5) & (p["alpha_p"] > 9.99) & (p["alpha_n"] < 0.52)
        return f64(x, p) * torch.where(wrong, 1.02, 1.0)

    cert = certify(defective(f=f), params=BOX, points=6, thorough=False)
    assert not cert.ok and cert.points == 6
    assert cert.reasons[0] == "1 of 6 points of the box fail"
    assert cert.reasons[1].startswith("at alpha_p=10, alpha_n=0.51, beta=0.5: f is off")
    assert cert.worst_params == {"alpha_p": 10, "alpha_n": pytest.approx(0.51), "beta": 0.5}
    assert cert.worst_x == 1.5


def test_a_box_that_holds_claims_its_points_alone(xielu: HandMade) -> None:
    cert = certify(xielu, params=BOX, points=6, thorough=False)
    assert cert.ok and cert.exhaustive and cert.checked == 6 * 65536
    assert cert.params == {"alpha_p": [0.05, 10], "alpha_n": [0.51, 10], "beta": 0.5}
    assert "checked on every input at 6 points of the box" in str(cert)
    assert "certified at 6 points" in str(cert)


def test_points_are_distinct_inside_and_dense_next_to_a_bound() -> None:
    points = box_points(XIELU, {}, BOX, 40)
    assert len(points) == len({tuple(p.values()) for p in points}) == 40
    assert all(low <= p[k] <= high for p in points for k, (low, high) in BOX.items())
    # alpha_n is spread by the logarithm of its distance from beta = 0.5
    assert sum(p["alpha_n"] < 0.5 + (0.01 * 9.5) ** 0.5 for p in points) in range(15, 26)


def test_values_that_the_bounds_exclude_are_left_out() -> None:
    points = box_points(XIELU, {}, {"alpha_n": (0.3, 2.0)}, 20)
    assert 10 < len(points) < 20 and all(p["alpha_n"] > 0.5 for p in points)
    with pytest.raises(SpecError, match="must be above beta"):
        box_points(XIELU, {}, {"alpha_n": (0.1, 0.4)}, 20)


def test_what_a_box_cannot_be_is_refused(xielu: HandMade) -> None:
    with pytest.raises(SpecError, match=r"must be \(low, high\)"):
        certify(xielu, params={"alpha_p": (2, 1)})
    with pytest.raises(SpecError, match="'gamma' is not a parameter of xielu"):
        certify(xielu, params={"gamma": (1, 2)})
    with pytest.raises(CertificationError, match="with a candidate"):
        certify(xielu, params=BOX, candidate=torch.relu)
