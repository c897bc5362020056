"""Ceilings by bytes."""

from __future__ import annotations

import copy

import pytest
from torch import nn

import integrand as ig
from integrand.errors import Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.sparsity.roofline import ceiling, roofline


def test_ceilings_of_the_forms() -> None:
    # a = 0.1: 1.82, 2.50; nothing active: 2 and 3; all active: 1
    assert round(ceiling("plain", 0.1), 2) == 1.82 and round(ceiling("gated", 0.1), 2) == 2.50
    assert [ceiling(f, 0) for f in ("plain", "gated", "both")] == [2, 3, 3]
    assert all(ceiling(f, 1) == 1 for f in ("plain", "gated", "both"))
    assert ceiling("both", 0.1, 0.5) == 3 / 1.6
    with pytest.raises(Error, match="share"):
        ceiling("gated", 1.5)
    with pytest.raises(Error, match="share"):
        ceiling("both", 0.1, -3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_by_its_bytes(tied: bool) -> None:
    shape = DecoderConfig(
        vocab_size=64, d_model=32, d_hidden=96, layers=2, heads=2, kv_heads=2, gated=True, tied=tied
    )
    model = Decoder(shape, ig.activation("relu")).eval()
    found = roofline(model, 0.1)
    blocks = 2 * 3 * 32 * 96 * 4
    assert found.feed_forward_bytes == blocks
    total = sum(p.numel() * 4 for p in model.parameters())
    # an untied table gives one row a token
    assert blocks + found.other_bytes == total - (0 if tied else 64 * 32 * 4)
    assert found.block == pytest.approx(2.5)
    share = found.share
    assert found.model == pytest.approx(1 / (1 - share + share / 2.5))
    assert f"{found.block:.2f}" in str(found)
    assert roofline(copy.deepcopy(model).bfloat16(), 0.1).share == pytest.approx(share)
    with pytest.raises(Error, match="feed-forward"):
        roofline(nn.Linear(2, 2), 0.1)
