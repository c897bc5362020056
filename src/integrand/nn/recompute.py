"""Keep the recipe of a tensor instead of the tensor: a block then saves pre-activations alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from integrand.kernels.autograd import transformed
from integrand.nn.shards import distributed, geometry, on_this_rank, rewrapped


class Recomputed:
    """A tensor that backward needs again, with the way to make it from tensors kept anyway."""

    def __init__(self, tensor: torch.Tensor, recipe: Callable[[], torch.Tensor]) -> None:
        local = on_this_rank(tensor)
        self._address = local.data_ptr()
        self._numel = local.numel()
        self._recipe = recipe

    def matches(self, tensor: torch.Tensor) -> bool:
        """Whether the plain `tensor` is this value, seen through any dense view of all of it."""
        return (
            tensor.data_ptr() == self._address
            and tensor.numel() == self._numel
            and tensor.is_contiguous()
        )

    def value(self) -> torch.Tensor:
        # as the forward ran: a module may answer from a cache where autograd is off
        with torch.enable_grad():
            return on_this_rank(self._recipe().detach())


def worthwhile(tensor: torch.Tensor) -> bool:
    """Whether replacing a saved tensor pays: only where autograd records in eager mode.

    Hooks on saved tensors would break a graph of torch.compile: `traced` is for those. The tensors
    of a `torch.func` transform have no address to be known by.
    """
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not transformed()
        and tensor.is_contiguous()
        and tensor.numel() > 0
    )


def traced(module: nn.Module) -> bool:
    """Whether torch.compile records a training step in which `module` may be computed twice."""
    compiling = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    # torch.func takes no checkpoint
    plain = not torch._C._are_functorch_transforms_active()
    return compiling and plain and torch.is_grad_enabled() and not watched(module)


def again(make: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """make(*inputs), marked in a compiled graph as to be computed again in backward.

    Left alone, the partitioner keeps whatever a matrix product reads, however cheap to make.
    """
    return checkpoint(make, *inputs, use_reentrant=False, preserve_rng_state=False)


def watched(module: nn.Module) -> bool:
    """Whether a hook sees this module's calls."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any((*hooks, module._backward_pre_hooks, nn.modules.module._has_any_global_hook()))


@contextmanager
def saving(recomputed: Recomputed) -> Iterator[None]:
    """Within: an operation that saves `recomputed`'s tensor keeps its recipe instead.

    Tensors of other addresses are saved as usual. A recipe must be bitwise reproducible, so the
    gradients are those of the plain operation. Activation checkpointing around the block already
    drops these tensors: switch one of the two off.
    """

    def pack(tensor: torch.Tensor) -> Any:
        local = on_this_rank(tensor)
        if not recomputed.matches(local):
            return tensor
        return local.shape, geometry(tensor) if distributed(tensor) else None

    def unpack(packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        shape, whole = packed
        value = recomputed.value().view(shape)
        return value if whole is None else rewrapped(value, whole)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
