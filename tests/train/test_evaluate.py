import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from integrand.train.batches import Windows
from integrand.train.distributed import Ranks
from integrand.train.evaluate import evaluate, held_out_windows


class Uniform(nn.Module):
    """Every token equally likely."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logit.expand(*tokens.shape, -1)


def test_a_uniform_guess_costs_the_log_of_the_vocabulary() -> None:
    rows = torch.randint(8, (5, 11), generator=torch.Generator().manual_seed(0))
    loss, bits = evaluate(Uniform(8), rows, torch.full((8,), 2), 2, nullcontext())
    # fp32 cross entropy: one rounding of log 8, and sums of at most 20 terms
    assert abs(loss - math.log(8)) <= 20 * torch.finfo(torch.float32).eps * math.log(8)
    assert abs(bits - 3 / 2) <= 20 * torch.finfo(torch.float32).eps * 3


def test_separators_count_as_loss_but_not_as_text() -> None:
    rows = torch.tensor([[1, 0, 1, 0, 1]])
    _, bits = evaluate(Uniform(4), rows, torch.tensor([0, 3, 1, 1]), 2, nullcontext())
    assert abs(bits - 4 * 2 / 6) <= 20 * torch.finfo(torch.float32).eps * 2


def test_held_out_windows_span_the_split() -> None:
    rows = held_out_windows(Windows([np.arange(1001)], 10), 5)
    assert rows[:, 0].tolist() == [0, 250, 500, 740, 990]
    assert len(held_out_windows(Windows([np.arange(31)], 10), 5)) == 3


@pytest.mark.parametrize("count", [5, 7, 8])
def test_ranks_share_the_rows_and_call_the_model_equally_often(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    rows = torch.randint(8, (count, 11), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(8)
    found: list[list[float]] = []
    sizes: list[list[int]] = [[], []]

    def keep(self: Ranks, values: list[float], device: torch.device) -> list[float]:
        found.append(values)
        return values

    monkeypatch.setattr(Ranks, "sums", keep)
    for own in range(2):
        model = Uniform(8)
        model.register_forward_pre_hook(lambda _, given, own=own: sizes[own].append(len(given[0])))
        evaluate(model, rows, lengths, 2, nullcontext(), ranks=Ranks(own, 2, "fsdp"))
    (nats, tokens, size), (nats_2, tokens_2, size_2) = found
    assert tokens + tokens_2 == count * 10
    assert size + size_2 == int(rows[:, 1:].sum())
    assert nats + nats_2 == pytest.approx(count * 10 * math.log(8), rel=1e-5)
    assert len(sizes[0]) == len(sizes[1]) == -(-count // 4)
    assert set(sizes[0] + sizes[1]) <= {1, 2}
