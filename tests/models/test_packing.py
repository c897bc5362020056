"""Documents packed into one row, read each by itself."""

import dataclasses

import pytest
import torch

from integrand.activation import activation
from integrand.models.decoder import Decoder, DecoderConfig, Llama3Rope, apart

CONFIG = DecoderConfig(
    vocab_size=50,
    d_model=24,
    d_hidden=16,
    layers=2,
    heads=3,
    kv_heads=1,
    gated=False,
    init_std=0.5,
)


@pytest.mark.parametrize(
    "config",
    [CONFIG, dataclasses.replace(CONFIG, qk_norm=True, gated=True, rope_scaling=Llama3Rope())],
    ids=["plain", "gated"],
)
def test_packed_documents_give_the_logits_of_each_alone(config: DecoderConfig) -> None:
    model = Decoder(config, activation("silu")).initialise(0).double()
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randint(50, (2, length), generator=draw) for length in (7, 1, 12)]
    packed = torch.cat(parts, 1)
    owners = torch.cat([torch.full_like(p, place) for place, p in enumerate(parts)], 1)
    alone = torch.cat([model(p) for p in parts], 1)
    together = model(packed, owners)
    # fp64 rounding in sums of at most 24 terms, through two layers
    assert (together - alone).abs().max() < 1e-12 * alone.abs().max()
    assert (model(packed) - alone)[:, 7:].abs().max() > 1e-3 * alone.abs().max()


def test_rows_may_be_packed_differently() -> None:
    positions, mask = apart(torch.tensor([[0, 0, 1, 1], [4, 4, 4, 4]]))
    assert positions.tolist() == [[[0, 1, 0, 1]], [[0, 1, 2, 3]]]
    block = torch.ones(2, 2).tril().bool()
    assert torch.equal(mask[0, 0], torch.block_diag(block, block).bool())
    assert torch.equal(mask[1, 0], torch.ones(4, 4).tril().bool())


def test_gradients_stay_within_a_document() -> None:
    model = Decoder(CONFIG, activation("silu")).initialise(0)
    tokens = torch.arange(10).unsqueeze(0)
    logits = model(tokens, (torch.arange(10) >= 6).long().unsqueeze(0))
    logits[0, 6:].sum().backward()
    touched = model.model.embed_tokens.weight.grad
    assert touched is not None
    assert touched[6:10].any(1).all() and not touched[:6].any()
