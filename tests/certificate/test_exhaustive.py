from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import integrand as ig
from integrand.certificate import certify
from integrand.errors import CertificationError

from .conftest import HandMade, df64, f64

Params = dict[str, torch.Tensor]
# around x = 1.5 and, with the other sign, where xIELU has a root
PART = range(0x3FC00000, 0x3FC40000)
ROOT = range(0xC0180000, 0xC0200000)
PLACE = float(np.array([0x3FC1A2B4], np.uint32).view(np.float32)[0])


def measured(act: Any, patterns: range = PART, **options: Any) -> Any:
    return certify(act, torch.float32, exhaustive=patterns, thorough=False, **options)


@pytest.mark.parametrize("patterns", [PART, ROOT, range(0xFF7F0000, 0xFF810000)], ids=str)
def test_the_c_kernel_passes_at_every_pattern_of_a_range(patterns: range) -> None:
    cert = measured(ig.activation("xielu"), patterns)
    assert cert.ok, str(cert)
    assert cert.checked == len(patterns) and not cert.exhaustive
    assert 0.4 < cert.max_ulp_f <= 4


@pytest.mark.parametrize("output", ["f", "df"])
def test_a_defect_at_a_single_pattern_is_found(defective: type[HandMade], output: str) -> None:
    good = {"f": f64, "df": df64}[output]
    p = {k: torch.tensor([v]).double() for k, v in HandMade.spec.values().items()}
    x = torch.tensor([PLACE], dtype=torch.float64)
    condition = float(x * df64(x, p) / f64(x, p)) if output == "f" else 1.0
    # both values lie in [2, 4), where fp32 numbers are 2^-22 apart
    beyond = (4 * condition + 1) * 2.0**-22

    def wrong(x: torch.Tensor, p: Params) -> torch.Tensor:
        return good(x, p) + beyond * (x == PLACE)

    act = defective(**{output: wrong})
    assert certify(act, torch.float32, thorough=False).ok
    cert = measured(act)
    assert len(cert.reasons) == 1 and cert.worst_x == PLACE
    assert cert.reasons[0].startswith(f"{output} is off by more than allowed at 1 points")
    assert cert.worst_octaves[0 if output == "f" else 1].worst_x == PLACE


def test_ulps_beyond_one_are_counted(defective: type[HandMade]) -> None:
    def two_off(x: torch.Tensor, p: Params) -> torch.Tensor:
        return f64(x, p) + 2 * 2.0**-22 * ((x > 1.5) & (x <= 1.5 + 100 * 2.0**-23))

    cert = measured(defective(f=two_off))
    assert cert.ok and cert.beyond_f == 100 and cert.beyond_df == 0


def test_everything_wrong_is_counted_and_fails(defective: type[HandMade]) -> None:
    cert = measured(defective(f=lambda x, p: 1.001 * f64(x, p)))
    assert cert.beyond_f == len(PART) and cert.share_off_f == 1
    assert any("were not decided one by one" in r for r in cert.reasons)


def test_a_candidate_is_measured(xielu: HandMade) -> None:
    relu2 = ig.activation("relu2")
    assert measured(relu2, candidate=lambda x: torch.relu(x) ** 2).ok
    assert not measured(relu2, candidate=torch.relu).ok


def test_an_interrupted_sweep_says_how_far_it_came() -> None:
    def stopped(x: torch.Tensor) -> torch.Tensor:
        if x[0] > 1.6:
            raise KeyboardInterrupt
        return torch.relu(x)

    with pytest.raises(KeyboardInterrupt, match=r"no certificate: .* 524,288 of 1,048,576 inputs"):
        measured(ig.activation("relu"), range(0x3FC80000, 0x3FD80000), candidate=stopped)


def test_other_dtypes_and_odd_ranges_are_refused(xielu: HandMade) -> None:
    with pytest.raises(CertificationError, match="needs float32 or a half-precision"):
        certify(xielu, torch.float64, exhaustive=True)
    with pytest.raises(CertificationError, match="multiples of 4096"):
        measured(xielu, range(1, 4096))
