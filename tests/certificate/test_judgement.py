from __future__ import annotations

import pytest
import torch

import integrand as ig
from integrand.certificate import certify, judgement


def cancelling(x: torch.Tensor) -> torch.Tensor:
    """sqrt(1 + x^2) - x as written, in fp32: beyond 4096 nothing is left of 1/(2x). Right outside
    of some octaves, since the truth is computed for each that is not."""
    wide, narrow = x.double(), x.float()
    length = torch.hypot(torch.ones_like(wide), wide)
    right = torch.where(wide > 0, 1 / (length + wide), length - wide)
    as_written = torch.hypot(torch.ones_like(narrow), narrow) - narrow
    return torch.where((x > 8) & (x < 2**20), as_written, right).to(x.dtype)


def test_a_formula_that_cancels_over_octaves_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    act = ig.derive(ig.Spec(name="hyperbola", function="sqrt(1 + x**2) - x"))

    def off() -> list[str]:
        cert = certify(act, candidate=cancelling, thorough=False)
        return [r for r in cert.reasons if r.startswith("f is off by more than allowed")]

    assert off()
    # 2^-22 of the largest term everywhere, not only next to roots, lets it pass
    monkeypatch.setattr(judgement, "NEAR_ROOT", 0.0)
    assert not off()
