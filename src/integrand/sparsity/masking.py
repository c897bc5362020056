"""Neurons of feed-forward blocks left out of the sum, by hooks on the maps back.

Dimensions: D d_model, H d_hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from integrand.errors import Error
from integrand.sparsity.feed_forward import FeedForward

Rule = Callable[[Tensor], Tensor]  # h (..., H) -> which elements are left out, bool (..., H)


def down_norms(block: FeedForward) -> Tensor:
    """||W_d[:, i]|| (H,) in fp32, whatever the weights are stored in."""
    weight = block.matrices()[2].weight.detach()
    return torch.linalg.vector_norm(weight, dim=0, dtype=torch.float32)


def magnitudes(h: Tensor, norms: Tensor) -> Tensor:
    """||n_i|| = |h_i| ||W_d[:, i]|| (..., H) in fp32: how much neuron i adds to the output.

    Source: arXiv:2411.02335, section 2, which follows arXiv:2402.03804.
    """
    return h.detach().float().abs() * norms


@contextmanager
def masking(blocks: Sequence[FeedForward], thresholds: Sequence[float]) -> Iterator[None]:
    """Within: block b computes without its neurons of magnitude ||n_i|| <= thresholds[b].

    A threshold of 0 leaves out what is zero anyway. A NaN is never left out.

    Raises:
        Error: not one threshold for each block.
    """
    if len(blocks) != len(thresholds):
        raise Error(
            f"each of the {len(blocks)} blocks needs a threshold, got {len(thresholds)}; pass one "
            "number for each, in the order of feed_forwards(model)"
        )
    rules = [at_most(down_norms(b), t) for b, t in zip(blocks, thresholds, strict=True)]
    with leaving_out(blocks, rules):
        yield


@contextmanager
def leaving_out(blocks: Sequence[FeedForward], rules: Sequence[Rule]) -> Iterator[None]:
    """Within: the elements of h that a block's rule marks are zero when they enter its map back."""

    def hook(rule: Rule) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, given: (given[0].masked_fill(rule(given[0]), 0), *given[1:])

    hooks = [
        block.down.register_forward_pre_hook(hook(rule))
        for block, rule in zip(blocks, rules, strict=True)
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def at_most(norms: Tensor, threshold: float) -> Rule:
    """Leaves out ||n_i|| <= threshold."""
    return lambda h: magnitudes(h, norms) <= threshold


def smallest(norms: Tensor, sparsity: float) -> Rule:
    """Leaves out that share of each token's neurons, the smallest ||n_i||: top-k of the others."""
    rank = int(sparsity * len(norms))

    def rule(h: Tensor) -> Tensor:
        size = magnitudes(h, norms)
        return size <= size.kthvalue(rank, dim=-1, keepdim=True).values if rank else size < 0

    return rule
