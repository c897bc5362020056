"""Weights laid so that a neuron is one stretch of memory: the map back is kept transposed.

A parameter keeps its identity, name, shape and values; only its strides change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from integrand.sparsity.feed_forward import FeedForward

Strides = tuple[tuple[nn.Module, tuple[int, ...]], ...]


def lay(block: FeedForward) -> Strides:
    """Lay the matrices of `block` in rows of neurons: the maps changed, with former strides.

    Peak memory is one more matrix; nothing stays twice, but what shared a moved matrix's memory
    (another process, a flat buffer) keeps the former values.
    """
    moved = []
    for module, weight, neurons in _neurons(block):
        if neurons.stride(1) != 1:
            moved.append((module, weight.stride()))
            rows = neurons.contiguous()
            weight.data = rows if neurons is weight else rows.t()
    return tuple(moved)


def laid(block: FeedForward) -> bool:
    """Whether the matrices still lie so: a state dict that was assigned brings its own strides."""
    return all(neurons.stride(1) == 1 for _, _, neurons in _neurons(block))


def restore(strides: Strides) -> None:
    """Give the weights their former strides, on the device and in the dtype they have now."""
    for module, former in strides:
        weight: Any = module.weight
        value = weight.detach()
        weight.data = torch.empty_strided(
            value.shape, former, dtype=value.dtype, device=value.device
        ).copy_(value)


def _neurons(block: FeedForward) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Each map, its weight, and a view whose first dim counts neurons (of a fused map, outputs)."""
    for module in (*block.inner, block.down):
        # transformers' Conv1D holds its matrix as (in, out)
        first = hasattr(module, "nf") == (module is block.down)
        weight: Any = module.weight
        yield module, weight, weight if first else weight.t()
