"""Held-out loss in nats per token and in bits per byte of text."""

import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.train.batches import Windows
from integrand.train.distributed import ALONE, Ranks
from integrand.train.objective import LEFT_OUT, within_documents


def held_out_windows(windows: Windows, count: int) -> Tensor:
    """Token ids (count, context + 1), evenly spread over the split; the same for every run."""
    count = min(count, len(windows))
    return windows.take(np.linspace(0, len(windows) - 1, count).round().astype(np.int64))


def evaluate(
    model: nn.Module,
    rows: Tensor,
    token_bytes: Tensor,
    at_once: int,
    autocast: AbstractContextManager[object],
    separator: int | None = None,
    ranks: Ranks = ALONE,
) -> tuple[float, float]:
    """(loss, bits per byte) over `rows` (N, context + 1), of which each rank reads its part.

    Bits per byte = total nats / (ln 2 * bytes of the predicted tokens): it does not depend on the
    tokeniser. Document separators count in the numerator and stand for no byte. With `separator`
    each document is read by itself, and its first token, which nothing predicts, does not count.
    A rank reads `at_once` rows at a time, and all call the model equally often.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = 0.0
    tokens = total_bytes = 0
    with torch.no_grad():
        for chunk in rows.split(at_once * ranks.count):
            own = chunk.tensor_split(ranks.count)[ranks.own]
            # FSDP2 gathers weights in every call: a rank without rows reads one that does not count
            given, targets = reading((own if len(own) else chunk[:1]).to(device), separator)
            if not len(own):
                targets = torch.full_like(targets, LEFT_OUT)
            with autocast:
                logits = model(*given)
            nats += float(
                F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            )
            counted = targets[targets != LEFT_OUT]
            tokens += counted.numel()
            total_bytes += int(token_bytes[counted.cpu()].sum())
    model.train(was_training)
    nats, tokens, total_bytes = ranks.sums([nats, tokens, total_bytes], device)
    return nats / tokens, nats / (math.log(2) * max(1, total_bytes))


def reading(rows: Tensor, separator: int | None) -> tuple[tuple[Tensor, ...], Tensor]:
    """(what the model is called with, labels) for rows (B, T + 1).

    With `separator` each document is read by itself; a label in another one is LEFT_OUT.
    """
    if separator is None:
        return (rows[:, :-1],), rows[:, 1:]
    labels, documents = within_documents(rows, separator)
    return (rows[:, :-1], documents), labels
