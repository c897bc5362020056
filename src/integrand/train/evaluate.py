"""Held-out loss in nats per token and in bits per byte of text."""

import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.train.batches import Windows
from integrand.train.objective import LEFT_OUT, within_documents


def held_out_windows(windows: Windows, count: int) -> Tensor:
    """Token ids (count, context + 1), evenly spread over the split; the same for every run."""
    count = min(count, len(windows))
    return windows.take(np.linspace(0, len(windows) - 1, count).round().astype(np.int64))


def evaluate(
    model: nn.Module,
    rows: Tensor,
    token_bytes: Tensor,
    batch_size: int,
    autocast: AbstractContextManager[object],
    separator: int | None = None,
) -> tuple[float, float]:
    """(loss, bits per byte) over `rows` (N, context + 1).

    Bits per byte = total nats / (ln 2 * bytes of the predicted tokens): it does not depend on the
    tokeniser. Document separators count in the numerator and stand for no byte. With `separator`
    each document is read by itself, and its first token, which nothing predicts, does not count.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = 0.0
    tokens = total_bytes = 0
    with torch.no_grad():
        for chunk in rows.split(batch_size):
            inputs, targets = chunk[:, :-1].to(device), chunk[:, 1:].to(device)
            documents = ()
            if separator is not None:
                targets, owners = within_documents(chunk.to(device), separator)
                documents = (owners,)
            with autocast:
                logits = model(inputs, *documents)
            nats += float(
                F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            )
            counted = targets[targets != LEFT_OUT]
            tokens += counted.numel()
            total_bytes += int(token_bytes[counted.cpu()].sum())
    model.train(was_training)
    return nats / tokens, nats / (math.log(2) * max(1, total_bytes))
