"""Thresholds from text, by the published scores. Their tensors are described in `thresholds`.

    cett   ||n_i|| = |h_i| ||W_d[:, i]||, the block's threshold eps that loses the share `target` of
           its output: theta_i = eps / ||W_d[:, i]||                 arXiv:2402.03804, 2411.02335
    cats   |g_i|, the `target` quantile of a block                   arXiv:2404.08763
    chess  |g_i| E|u_i|, its quantile tau: theta_i = tau / E|u_i|    arXiv:2409.01366 (their code)
    teal   |x_j| of every linear map of a layer, its quantile        arXiv:2408.14690 (their code)
    wina   |x_j| ||W[:, j]||, likewise: theta_j = tau / ||W[:, j]||  arXiv:2505.19427 (their code)

TEAL's authors take the quantile of a symmetric histogram of x, here it is that of |x|; they and
WINA's also distribute the target over the maps of a layer by a greedy search, here every map has
the same. CETT keeps ||n_i|| > eps where the paper has >=.

Dimensions: T tokens, D inputs of a linear map, H d_hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.errors import Error
from integrand.sparsity.cett import Losses, add_losses, curve
from integrand.sparsity.feed_forward import FeedForward, feed_forwards, matrix
from integrand.sparsity.frozen import frozen
from integrand.sparsity.masking import down_norms
from integrand.sparsity.passes import mean_loss, token_rows, watching
from integrand.sparsity.thresholds import Gate, Thresholds, fingerprint, gates, linear_widths

Method = Literal["cett", "cats", "chess", "teal", "wina"]


def calibrate(
    model: nn.Module,
    data: Tensor | Iterable[Tensor],
    method: Method,
    target: float,
    separator: int | None = None,
) -> Thresholds:
    """Thresholds of `model` on token ids (N, T + 1): T inputs and the T tokens after them.

    `target` is the CETT of every block for cett, else the share that every map leaves out. One pass
    over the data, two for chess; memory O(H D) a block, whatever the number of tokens. Quantiles
    are those of a histogram over the leading 16 bits: at most 2^-8 above the exact ones.

    Raises:
        Error: an unknown method, or a target outside 0 to 1.
        DataError: no token ids of this model's vocabulary.
    """
    if method not in get_args(Method):
        raise Error(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if not 0 <= target < 1:
        raise Error(f"target must be at least 0 and below 1, got {target}")
    rows = token_rows(data, model)
    with frozen(model):
        blocks = feed_forwards(model)

        def run() -> None:
            mean_loss(model, rows, separator)

        if method == "cett":
            values = _cett(blocks, target, run)
        elif method in ("teal", "wina"):
            values = _inputs(model, blocks, method == "wina", target, run)
        else:
            values = _gates(blocks, method == "chess", target, run)
        return Thresholds(method, target, fingerprint(model), values)


class Histogram:
    """Counts of non-negative fp32 numbers by their leading 16 bits: as ordered as the numbers."""

    def __init__(self) -> None:
        self.counts = torch.zeros(1 << 16, dtype=torch.int64)

    def add(self, scores: Tensor) -> None:
        bins = scores.float().contiguous().view(torch.int32).flatten() >> 15
        self.counts += torch.bincount(bins, minlength=1 << 16).cpu()

    def quantile(self, share: float) -> float:
        """The largest number of the first bin up to which `share` of all numbers lie; 0 for 0."""
        if share == 0:
            return 0.0
        reached = self.counts.cumsum(0) >= share * float(self.counts.sum())
        bits = ((int(reached.nonzero()[0]) + 1) << 15) - 1
        return float(np.array([bits], np.uint32).view(np.float32)[0])


def _cett(
    blocks: Sequence[FeedForward], target: float, run: Callable[[], None]
) -> dict[str, Tensor]:
    norms = [down_norms(b) for b in blocks]
    sums = [Losses.none(0) for _ in blocks]
    columns = []
    for block in blocks:
        transposed = block.matrices()[2].weight.detach().float().t()
        columns.append(F.pad(transposed, (0, -transposed.shape[1] % 16)).contiguous())
    none = np.zeros(0, np.int64)

    def add(place: int) -> Callable[[Tensor], None]:
        return lambda h: add_losses(
            sums[place], h.flatten(0, -2), norms[place], columns[place], none
        )

    with watching(blocks, [add(place) for place in range(len(blocks))]):
        run()
    found = [curve(each) for each in sums]
    epsilons = [float(c.thresholds[c.at(target)]) for c in found]
    return {
        f"hidden/{block.name}": _divided(epsilon, norm)
        for block, epsilon, norm in zip(blocks, epsilons, norms, strict=True)
    }


def _gates(
    blocks: Sequence[FeedForward], weighted: bool, target: float, run: Callable[[], None]
) -> dict[str, Tensor]:
    weights = [torch.ones(b.d_hidden) for b in blocks]
    if weighted:
        means = [Mean(b.d_hidden) for b in blocks]
        _each_gate(blocks, run, lambda place, gate: means[place].add(gate[1]))
        weights = [w if m.tokens == 0 else m.value for w, m in zip(weights, means, strict=True)]
    histograms = [Histogram() for _ in blocks]

    def add(place: int, gate: Gate) -> None:
        histograms[place].add(gate[0].float().abs() * weights[place].to(gate[0].device))

    _each_gate(blocks, run, add)
    return {
        f"gate/{block.name}": _divided(histogram.quantile(target), weight)
        for block, histogram, weight in zip(blocks, histograms, weights, strict=True)
    }


class Mean:
    """E|u_i| over tokens, (H,); a plain block has no u."""

    def __init__(self, width: int) -> None:
        self.sums, self.tokens = torch.zeros(width, dtype=torch.float64), 0

    def add(self, u: Tensor | None) -> None:
        if u is not None:
            rows = u.flatten(0, -2)
            self.sums += rows.abs().sum(0, dtype=torch.float64).cpu()
            self.tokens += len(rows)

    @property
    def value(self) -> Tensor:
        return (self.sums / self.tokens).float()


def _each_gate(
    blocks: Sequence[FeedForward], run: Callable[[], None], see: Callable[[int, Gate], None]
) -> None:
    with gates(blocks) as of, watching(blocks, [_calling(see, i, of[i]) for i in range(len(of))]):
        run()


def _calling(
    see: Callable[[int, Gate], None], place: int, gate: Callable[[], Gate]
) -> Callable[[Tensor], None]:
    return lambda _: see(place, gate())


def _inputs(
    model: nn.Module,
    blocks: Sequence[FeedForward],
    weighted: bool,
    target: float,
    run: Callable[[], None],
) -> dict[str, Tensor]:
    maps = _maps_of_layers(model, blocks)
    norms, histograms = {}, {}
    with ExitStack() as stack:
        for name, module in maps.items():
            norms[name] = _column_norms(module) if weighted else _column_norms(module).fill_(1)
            histograms[name] = Histogram()
            hook = _scoring(histograms[name], norms[name])
            stack.callback(module.register_forward_pre_hook(hook).remove)
        run()
    return {
        f"input/{name}": _divided(histograms[name].quantile(target), norms[name]) for name in maps
    }


def _maps_of_layers(model: nn.Module, blocks: Sequence[FeedForward]) -> dict[str, nn.Module]:
    """The linear maps of the layers that hold the blocks: of attention as well, the head not."""
    # "model.layers.0.mlp" lies in "model.layers.0."; a block that no module holds in all of it
    layers = tuple({"".join(block.name.rpartition(".")[:2]) for block in blocks})
    return {n: model.get_submodule(n) for n in linear_widths(model) if n.startswith(layers)}


def _column_norms(module: nn.Module) -> Tensor:
    weight = matrix(module).weight.detach()
    return torch.linalg.vector_norm(weight, dim=0, dtype=torch.float32)


def _scoring(histogram: Histogram, norms: Tensor) -> Callable[..., None]:
    return lambda _, given: histogram.add(given[0].detach().float().abs() * norms)


def _divided(score: float, weights: Tensor) -> Tensor:
    """The threshold of each channel; one without weight adds nothing and is always left out."""
    return torch.where(weights > 0, score / weights, torch.inf).float().cpu()
