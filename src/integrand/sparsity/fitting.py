"""Predictors from text: without training by a singular value decomposition, or trained.

Both have one form, `second first x + bias > 0`, rank r and 6 % of a block's numbers by default
(the share of arXiv:2402.03804). That paper's loss and whether a nonlinearity stands between its two
layers were not read; trained here means without one, and with the loss of DejaVu's code
(arXiv:2310.17157).

Dimensions: T tokens, D d_model, H d_hidden, r rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.errors import DataError, Error
from integrand.sparsity.feed_forward import FeedForward, feed_forwards
from integrand.sparsity.frozen import frozen
from integrand.sparsity.passes import mean_loss, token_rows
from integrand.sparsity.predictors import Predictor, Predictors
from integrand.sparsity.thresholds import Thresholds, fingerprint, small

AT_ONCE = 1024  # tokens whose hidden values exist at one time
BATCH = 256  # tokens of a training step
RATE = 1e-2
HELD_BACK = 4  # one token in so many calibrates and does not train


def fit(
    model: nn.Module,
    data: Tensor | Iterable[Tensor],
    method: Literal["trained", "svd"] = "trained",
    *,
    size: float = 0.06,
    rank: int | None = None,
    recall: float = 0.98,
    thresholds: Thresholds | None = None,
    epochs: int = 20,
    seed: int = 0,
    separator: int | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Predictors:
    """A predictor for each block of `model` from token ids (N, T + 1).

    A neuron counts as active where |h_i| > 0, or above its threshold where `thresholds` of the
    hidden values are given (method cett). Each predictor is then moved so that `recall` of the
    active neurons of text it was not trained on are predicted so.

    svd: the rank-r map closest to the gate's (a plain block's up) in the mean square over the
    inputs, moved by a multiple of each neuron's own residual deviation (after arXiv:2603.14110).
    For dReLU it knows the gate alone. trained: starts there, and minimises the binary cross-entropy
    in which an inactive neuron weighs the active share + 0.005, by Adam.

    Args:
        size: of a predictor, as a share of its block's numbers; `rank` decides instead.
        tell: called with a line about each block when it is done.

    Raises:
        Error: a method, size, rank, recall or thresholds that cannot be used.
        DataError: no token ids of this model's vocabulary, or one token alone to train on.
    """
    if method not in ("trained", "svd"):
        raise Error(f"method must be trained or svd, got {method!r}")
    if not (0 < recall <= 1 and size > 0):
        raise Error(f"recall must be above 0, at most 1, and size above 0, got {recall}, {size}")
    if rank is not None and rank < 1:
        raise Error(f"rank must be at least 1, or None to follow from size, got {rank}")
    rows = token_rows(data, model)
    if method == "trained" and rows[:, 1:].numel() < 2:
        raise DataError(
            "a trained predictor needs two tokens at least, one to train on and one to calibrate"
            " with, got 1; pass more text, some thousand tokens, or method='svd'"
        )
    with frozen(model):
        blocks = feed_forwards(model)
        active = {b.name: _active_above(b, thresholds) for b in blocks}
        inputs = _inputs(model, blocks, rows, separator)
        found = {}
        for place, block in enumerate(blocks, 1):
            started = time.monotonic()
            x = inputs.pop(block.name)
            labels = _labels(block, x, active[block.name])
            back = torch.arange(len(x), device=x.device) % HELD_BACK == 0
            predictor, spread = _svd(block, x.float(), rank or _rank(block, size))
            if method == "trained":
                with torch.enable_grad():
                    predictor = _trained(predictor, x[~back], labels[~back], epochs, seed)
                spread = torch.ones_like(spread)
            # a gate known exactly is not to lose what is active but small
            least = 0.0 if method == "svd" and thresholds is None else -torch.inf
            predictor = _calibrated(predictor, spread, x[back], labels[back], recall, least)
            found[block.name] = Predictor(*(t.cpu() for t in predictor))
            seconds = time.monotonic() - started
            tell(f"predictor {place} of {len(blocks)}: {block.name}, {seconds:.1f} s")
        return Predictors(method, recall, fingerprint(model), found, active)


def _active_above(block: FeedForward, thresholds: Thresholds | None) -> Tensor:
    if thresholds is None:
        return torch.zeros(block.d_hidden)
    if (found := thresholds.values.get(f"hidden/{block.name}")) is None:
        raise Error(
            f"labels need thresholds of the hidden values of '{block.name}', got those of method "
            f"{thresholds.method}; calibrate with method cett"
        )
    return found


def _rank(block: FeedForward, size: float) -> int:
    width, inputs = block.matrices()[1].weight.shape
    numbers = sum(m.weight.numel() for m in block.matrices() if m is not None)
    rank = int((size * numbers - width) / (width + inputs))
    if rank < 1:
        raise Error(f"a predictor of {size:.1%} of '{block.name}' has no rank left; make it larger")
    return min(rank, inputs, width)


def _inputs(
    model: nn.Module, blocks: Sequence[FeedForward], rows: Tensor, separator: int | None
) -> dict[str, Tensor]:
    """What enters each block, (T, D) in the model's dtype."""
    seen: dict[str, list[Tensor]] = {block.name: [] for block in blocks}

    def noting(name: str) -> Callable[..., None]:
        return lambda _, given: seen[name].append(given[0].detach().flatten(0, -2))

    with ExitStack() as stack:
        for block in blocks:
            hook = block.inner[0].register_forward_pre_hook(noting(block.name))
            stack.callback(hook.remove)
        mean_loss(model, rows, separator)
    return {name: torch.cat(parts) for name, parts in seen.items()}


def _labels(block: FeedForward, x: Tensor, above: Tensor) -> Tensor:
    """Which neurons are active, bool (T, H)."""
    above = above.to(x.device)
    return torch.cat([~small(block.hidden(part), above) for part in x.split(AT_ONCE)])


def _svd(block: FeedForward, x: Tensor, rank: int) -> tuple[Predictor, Tensor]:
    """The map of rank r that minimises E ||(W - W_r) x||^2, and its residuals' deviations (H,).

    With E x x^T = S S^T that is the truncation of the decomposition of W S, times S^-1.
    """
    gate, up, _ = block.matrices()
    weight, bias = gate or up
    weight = weight.detach().double()
    second_moment = x.double().t() @ x.double() / len(x)
    if not second_moment.any():
        raise Error(
            f"what enters '{block.name}' must not be 0 for every token, got zeros alone; pass "
            "other text, or check the weights before it"
        )
    # a direction that the text has not used is as dear as the dearest thousandth
    ridge = 1e-6 * second_moment.diagonal().mean()
    root = torch.linalg.cholesky(second_moment + ridge * torch.eye(len(weight[0])).to(weight))
    u, s, v = torch.linalg.svd(weight @ root, full_matrices=False)
    residual = (u[:, rank:] * s[rank:]).norm(dim=1)
    # fp32 computes the map itself to some 1e-7 of its size
    spread = residual + 1e-6 * (weight @ root).norm(dim=1)
    first = torch.linalg.solve_triangular(root.t(), v[:rank].t(), upper=True).t()
    offset = torch.zeros(len(weight)).to(weight) if bias is None else bias.detach()
    second = u[:, :rank] * s[:rank]
    return Predictor(first.float(), second.float(), offset.float()), spread.float()


def _trained(start: Predictor, x: Tensor, labels: Tensor, epochs: int, seed: int) -> Predictor:
    # logits of order 4: a start that is exact already is not unlearned
    scale = start.scores(x[:AT_ONCE]).std().clamp_min(1e-12) / 4
    first, second, bias = start
    parameters = [
        p.detach().clone().requires_grad_() for p in (first, second / scale, bias / scale)
    ]
    share = float(labels.float().mean()) + 0.005
    optimizer = torch.optim.Adam(parameters, RATE)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            y = labels[rows.to(x.device)].float()
            logits = Predictor(*parameters).scores(x[rows.to(x.device)])
            weight = y * (1 - share) + share
            loss = F.binary_cross_entropy_with_logits(logits, y, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Predictor(*(p.detach() for p in parameters))


def _calibrated(
    predictor: Predictor, spread: Tensor, x: Tensor, labels: Tensor, recall: float, least: float
) -> Predictor:
    """Moved by z spread (H,), z the smallest from `least` on with that recall on x."""
    short = [
        (-predictor.scores(part) / spread)[label]
        for part, label in zip(x.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    ]
    missing = torch.cat(short)
    if len(missing) == 0:
        return predictor
    z = missing.kthvalue(max(1, -int(-recall * len(missing) // 1))).values.clamp_min(least)
    # strictly above: the pair that decides is itself to be predicted
    moved = predictor.bias + spread * (z + 1e-6 * z.abs() + 1e-6)
    return predictor._replace(bias=moved)
