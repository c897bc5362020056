import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from integrand.activation import activation
from integrand.train.batches import Batches, Windows
from integrand.train.config import TrainConfig
from integrand.train.evaluate import evaluate
from integrand.train.files import read_metrics
from integrand.train.loop import build, one_step, train
from integrand.train.objective import documents_of, objective
from integrand.train.optimisers import make_optimizers
from integrand.train.tokens import TokenData

TOKENS = torch.tensor([[5, 6, 0, 7, 8, 9, 0, 0, 4], [1, 2, 3, 4, 5, 6, 7, 8, 0]])


def changed(config: TrainConfig, **fields: Any) -> TrainConfig:
    return dataclasses.replace(config, **fields)


def test_by_default_labels_are_the_next_tokens(config: TrainConfig) -> None:
    labels, documents = objective(TOKENS, config, 0)
    assert torch.equal(labels, TOKENS[:, 1:])
    assert documents is None


def test_a_separator_is_the_last_token_of_its_document(config: TrainConfig) -> None:
    assert documents_of(TOKENS, 0)[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 3]
    assert not documents_of(TOKENS, None).any()
    labels, documents = objective(TOKENS, changed(config, mask_documents=True), 0)
    assert labels.tolist() == [
        [6, 0, -100, 8, 9, 0, -100, -100],
        [2, 3, 4, 5, 6, 7, 8, 0],
    ]
    assert documents is not None
    assert documents[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2]


def test_goldfish_counts_the_first_token_of_a_row_into_its_windows(config: TrainConfig) -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 300, (50, 17), generator=draw)
    labels, documents = objective(tokens, changed(config, goldfish_k=2, goldfish_context=5), 0)
    assert documents is None
    out = labels == -100
    assert torch.equal(labels[~out], tokens[:, 1:][~out])
    # the first window of five tokens ends with the fourth label
    assert not out[:, :3].any() and out[:, 3].any()
    both, _ = objective(
        tokens, changed(config, goldfish_k=2, goldfish_context=5, mask_documents=True), 0
    )
    assert torch.equal(both, labels)


def step(config: TrainConfig, batch: Tensor, separator: int | None) -> tuple[Tensor, Tensor]:
    """Loss and gradient norm of one step on fresh weights."""
    model = build(config, activation("xielu"))
    optimizers = make_optimizers(config, model)
    return one_step(model, optimizers, batch, config, nullcontext(), separator=separator)[:2]


@pytest.fixture
def batch(config: TrainConfig) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(1, 300, (4, 17), generator=draw)
    rows[0, 4] = rows[0, 9] = rows[3, 1] = 0
    return rows


def test_the_loss_is_the_mean_over_the_labels_that_count(
    config: TrainConfig, batch: Tensor
) -> None:
    config = changed(config, mask_documents=True, goldfish_k=3, goldfish_context=2)
    labels, documents = objective(batch, config, 0)
    assert 0 < (labels == -100).sum() < labels.numel() / 2
    model = build(config, activation("xielu"))
    with torch.no_grad():
        logits = model(batch[:, :-1], documents).flatten(0, 1)
    each = F.cross_entropy(logits, labels.flatten(), reduction="none")
    loss, norm = step(config, batch, 0)
    # two orders of summing fp32 terms
    bound = labels.numel() * torch.finfo(torch.float32).eps
    assert abs(loss - each.sum() / (labels != -100).sum()) < bound * loss
    # rows have different numbers of labels: micro-batches must not be weighted alike
    loss_of_parts, norm_of_parts = step(changed(config, accumulate=4), batch, 0)
    assert abs(loss - loss_of_parts) < bound * loss
    assert abs(norm - norm_of_parts) < bound * norm


def test_documents_change_what_is_learnt(config: TrainConfig, batch: Tensor) -> None:
    masked = changed(config, mask_documents=True)
    assert step(masked, batch, 0)[0] != step(config, batch, 0)[0]
    # without a separator in it a batch is computed alike, up to the kernel of attention
    whole = batch.clamp(min=1)
    losses = [step(c, whole, 0)[0] for c in (config, masked)]
    assert abs(losses[0] - losses[1]) < 64 * torch.finfo(torch.float32).eps * losses[0]


def test_a_batch_without_labels_costs_nothing(config: TrainConfig) -> None:
    config = changed(config, mask_documents=True)
    assert step(config, torch.zeros(4, 17, dtype=torch.long), 0) == (0, 0)


def test_held_out_loss_reads_documents_as_training_does(config: TrainConfig, batch: Tensor) -> None:
    model = build(config, activation("xielu"))
    lengths = torch.ones(320, dtype=torch.long)
    loss, bits = evaluate(model, batch, lengths, 2, nullcontext(), 0)
    expected = step(changed(config, mask_documents=True), batch, 0)[0]
    assert abs(loss - expected) < 64 * torch.finfo(torch.float32).eps * loss
    assert bits * 0.693147180559945 == pytest.approx(loss)
    assert evaluate(model, batch, lengths, 2, nullcontext())[0] != loss


def test_a_run_has_the_separator_of_its_tokens(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    config = changed(config, mask_documents=True, goldfish_k=3, goldfish_context=2, steps=12)
    train(config, tmp_path, tokens=tokens, quiet=True)
    row = next(row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train")
    batch = Batches(Windows(tokens.train, config.context), config.batch_size, config.seed).at(0)
    assert row["loss"] == float(step(config, batch, tokens.separator)[0])


def test_the_share_of_labels_left_out_is_recorded_also_across_a_stop(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    config = changed(
        config, mask_documents=True, goldfish_k=3, goldfish_context=2, log_every=5, steps=12
    )

    def stop(step: int, loss: float) -> None:
        if step == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, tmp_path, tokens=tokens, quiet=True, on_step=stop)
    record = train(config, tmp_path, tokens=tokens, quiet=True)
    batches = Batches(Windows(tokens.train, config.context), config.batch_size, config.seed)
    labels = torch.cat([objective(batches.at(i), config, tokens.separator)[0] for i in range(12)])
    assert record["left_out"] == float((labels == -100).double().mean()) > 0.2
