import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from integrand.train.activations import chosen
from integrand.train.config import TrainConfig
from integrand.train.describe import describe
from integrand.train.loop import build, summed_loss
from integrand.train.optimisers import make_optimizers


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_flops_are_those_that_torch_counts(config: TrainConfig, gated: bool, tied: bool) -> None:
    shape = dataclasses.replace(config.model, gated=gated, tied=tied)
    config = dataclasses.replace(config, model=shape)
    model = build(config, chosen(config))
    ids = torch.zeros(2, config.context, dtype=torch.long)
    # the fused attention of a CPU is not counted
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        summed_loss(model, ids, ids).backward()
    assert counter.get_total_flops() == describe(config).flops_per_token * ids.numel()


def test_parameters_tokens_and_state_are_those_of_the_run(config: TrainConfig) -> None:
    model = build(config, chosen(config))
    (optimizer,) = make_optimizers(config, model)
    ids = torch.zeros(1, config.context, dtype=torch.long)
    summed_loss(model, ids, ids).backward()
    optimizer.step()
    kept = [*model.parameters(), *(p.grad for p in model.parameters())]
    kept += [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    found = describe(config)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.state_bytes == sum(t.numel() * t.element_size() for t in kept)
    assert found.tokens == config.steps * config.batch_size * config.context
    assert found.tokens_per_parameter == found.tokens / found.parameters
