"""A model run over rows of tokens: its loss, and hooks on what its blocks hand their maps back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.errors import DataError, Error
from integrand.models.decoder import Decoder
from integrand.sparsity.feed_forward import FeedForward
from integrand.train.evaluate import reading
from integrand.train.objective import LEFT_OUT

TOKENS_AT_ONCE = 2048


def token_rows(data: Tensor | Iterable[Tensor], model: nn.Module) -> Tensor:
    """Token ids (N, T + 1), int64, of one tensor or of several with equal T.

    Raises:
        DataError: not such ids, none, or one that the model has no embedding for.
    """
    parts = [data] if isinstance(data, (Tensor, str)) else list(data)
    if not parts or any(not isinstance(p, Tensor) or p.ndim != 2 for p in parts):
        raise DataError(
            "data must be token ids (N, T + 1), or several such tensors, got "
            f"{[tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in parts]}; "
            "stack the ids of equally long pieces of text"
        )
    if any(p.is_floating_point() or p.dtype is torch.bool for p in parts):
        raise DataError(f"token ids must be integers, got {parts[0].dtype}; pass a tokenizer's ids")
    if len({p.shape[1] for p in parts}) > 1:
        lengths = ", ".join(str(p.shape[1]) for p in parts[:4])
        raise DataError(f"all rows must have one length, got {lengths}; cut them to the shortest")
    rows = torch.cat([p.long() for p in parts])
    if rows.shape[0] < 1 or rows.shape[1] < 2:
        raise DataError(f"data must hold a row of two tokens at least, got {tuple(rows.shape)}")
    least, largest = int(rows.min()), int(rows.max())
    known = _vocabulary(model)
    if least < 0 or (known is not None and largest >= known):
        raise DataError(
            f"token ids must lie between 0 and {(known or 0) - 1}, the model's vocabulary, got "
            f"{least if least < 0 else largest}; encode the text with the model's own tokenizer"
        )
    return rows


def _vocabulary(model: nn.Module) -> int | None:
    """The rows of the table of tokens: the one that transformers' models name, or the largest."""
    try:
        named = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:
        named = None
    tables = [named] if isinstance(named, nn.Embedding) else model.modules()
    return max((t.num_embeddings for t in tables if isinstance(t, nn.Embedding)), default=None)


def mean_loss(
    model: nn.Module,
    rows: Tensor,
    separator: int | None = None,
    tick: Callable[[int, float], object] = lambda rows, loss: None,
    begin: Callable[[int, int], object] = lambda rows, tokens: None,
) -> tuple[Tensor, Tensor]:
    """Nats (N,) and counted labels (N,) of each row, in fp64.

    Args:
        separator: as in `integrand.train.evaluate.reading`: documents apart, for a `Decoder`.
        tick: called after each part with the rows done and the loss so far.
        begin: called before each part with its (rows, tokens in each).

    Raises:
        Error: a separator for a model that is no `Decoder`, or a call that gives no logits.
    """
    if separator is not None and not isinstance(model, Decoder):
        raise Error(
            "separator must be None for a model other than integrand's Decoder, whose call alone "
            f"takes documents apart, got {separator} for {type(model).__name__}; leave it out"
        )
    device = next(model.parameters()).device
    nats, counted = [], []
    for part in rows.split(max(1, TOKENS_AT_ONCE // (rows.shape[1] - 1))):
        given, targets = reading(part.to(device), separator)
        begin(*targets.shape)
        found = model(*given)
        logits = _logits(found, targets)
        lost = F.cross_entropy(
            *(logits.float().flatten(0, 1), targets.flatten()),
            ignore_index=LEFT_OUT,
            reduction="none",
        )
        nats.append(lost.view(targets.shape).double().sum(1).cpu())
        counted.append((targets != LEFT_OUT).sum(1).double().cpu())
        tick(len(part), float(nats[-1].sum() / counted[-1].sum().clamp_min(1)))
    return torch.cat(nats), torch.cat(counted)


def _logits(found: Any, targets: Tensor) -> Tensor:
    logits = found if isinstance(found, Tensor) else getattr(found, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != targets.shape:
        raise Error(
            f"the model must give logits {(*targets.shape, 'V')}, or an object with them as logits,"
            f" got {tuple(logits.shape) if isinstance(logits, Tensor) else type(found).__name__}; "
            "wrap its forward"
        )
    return logits


@contextmanager
def watching(
    blocks: Sequence[FeedForward], watchers: Sequence[Callable[[Tensor], object]]
) -> Iterator[None]:
    """Within: each block's watcher is called with the h (..., H) that enters its map back."""

    def hook(watch: Callable[[Tensor], object]) -> Callable[..., None]:
        return lambda _, given: (watch(given[0].detach()), None)[1]

    with ExitStack() as hooks:
        for block, watch in zip(blocks, watchers, strict=True):
            hooks.callback(block.down.register_forward_pre_hook(hook(watch)).remove)
        yield


def first_tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
