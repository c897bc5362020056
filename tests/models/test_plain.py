"""From gated to plain: the width rule, the number of parameters, fresh weights of the old scale."""

import pytest
import torch
from torch import nn

import integrand as ig
from integrand.models import plain_from_gated

ACT = ig.activation("xiprelu")


class Fused(nn.Module):
    """As transformers' Phi3MLP: gate and up in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(32, 128, bias=False)
        self.down_proj = nn.Linear(64, 32, bias=False)


@pytest.mark.parametrize("block", [ig.nn.GatedMLP(ACT, 32, 64), Fused()], ids=["gated", "fused"])
def test_half_again_as_wide_at_equal_weight(block: nn.Module) -> None:
    plain = plain_from_gated(block, ACT)
    assert plain.config == {"intermediate_size": 96}
    assert plain.parameters == sum(p.numel() for p in plain.module.parameters())
    assert abs(plain.parameters - plain.gated_parameters) <= 1e-3 * plain.gated_parameters
    assert plain.module(torch.randn(4, 32)).shape == (4, 32)


def test_new_weights_have_the_spread_of_the_old_ones() -> None:
    block = ig.nn.GatedMLP(ACT, 256, 512)
    for p in block.parameters():
        nn.init.normal_(p, std=0.05)
    plain = plain_from_gated(block, ACT).module
    # 98,304 draws: the standard deviation of their spread is 0.2 %
    assert plain.up_proj.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert plain.down_proj.weight.std().item() == pytest.approx(0.05 / 1.5**0.5, rel=0.02)
    again = plain_from_gated(block, ACT).module
    assert torch.equal(again.up_proj.weight, plain.up_proj.weight)


def test_device_dtype_and_biases_are_those_of_the_block() -> None:
    block = ig.nn.GatedMLP(ACT, 1024, 64, bias=True, dtype=torch.bfloat16)
    plain = plain_from_gated(block, ACT).module
    assert plain.up_proj.weight.dtype is torch.bfloat16
    assert plain.up_proj.bias is not None and not plain.down_proj.bias.any()


def test_what_is_no_match_is_refused() -> None:
    with pytest.raises(ig.SwapError, match=r"got MLP with up_proj 32 -> 64, down_proj 64 -> 32"):
        plain_from_gated(ig.nn.MLP(ACT, 32, 64), ACT)
    with pytest.raises(ig.SwapError, match=r"0.1 %, got .* at width 128; choose a multiple"):
        plain_from_gated(ig.nn.GatedMLP(ACT, 32, 64), ACT, multiple=64)
