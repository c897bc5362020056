"""Memory that timing depends on: what autograd keeps, and whether outputs are fresh pages."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# glibc's mallopt parameters and their defaults
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM, _DEFAULT_MMAPS = 128 * 1024, 65536
_NEVER = 2**31 - 1


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


@contextmanager
def allocation(fresh: bool) -> Iterator[bool]:
    """Within it, large outputs on the CPU are fresh pages of the system (`fresh`, the default of
    the C library, which costs a page fault every 4 KiB) or reused ones. Yields whether the request
    took effect: reuse needs glibc."""
    if fresh:
        yield True
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        yield False
        return
    took = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    try:
        yield took
    finally:
        mallopt(_MMAP_MAX, _DEFAULT_MMAPS)
        mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM)
