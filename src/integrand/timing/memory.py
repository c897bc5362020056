"""What autograd keeps between the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch


def saved_bytes(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Bytes per element of x that autograd keeps from the forward pass to the backward pass, the
    input included, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return t

    x = x.detach().clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        # kept alive, so that no address is counted for two storages
        y = call(x)
    del y
    return sum(storages.values()) / x.numel()
