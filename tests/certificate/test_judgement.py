from __future__ import annotations

import pytest
import torch

import integrand as ig
from integrand.certificate import certify, judgement


def cancelling(x: torch.Tensor) -> torch.Tensor:
    """sqrt(1 + x^2) - x as written, in fp32: beyond 4096 nothing is left of 1/(2x)."""
    wide = x.float()
    return (torch.hypot(torch.ones_like(wide), wide) - wide).to(x.dtype)


def test_a_formula_that_cancels_on_a_half_line_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    act = ig.derive(ig.Spec(name="hyperbola", function="sqrt(1 + x**2) - x"))

    def off() -> list[str]:
        cert = certify(act, candidate=cancelling, thorough=False)
        return [r for r in cert.reasons if r.startswith("f is off by more than allowed")]

    assert off()
    # 2^-22 of the largest term everywhere, not only next to roots, lets it pass
    monkeypatch.setattr(judgement, "NEAR_ROOT", 0.0)
    assert not off()
