"""Keep the recipe of a tensor instead of the tensor: a block then saves pre-activations alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Recomputed:
    """A tensor that backward needs again, with the way to make it from tensors kept anyway."""

    def __init__(self, tensor: torch.Tensor, recipe: Callable[[], torch.Tensor]) -> None:
        self._address = tensor.data_ptr()
        self._numel = tensor.numel()
        self._recipe = recipe

    def matches(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` is this value, seen through any dense view of all of it."""
        return (
            tensor.data_ptr() == self._address
            and tensor.numel() == self._numel
            and tensor.is_contiguous()
        )

    def value(self) -> torch.Tensor:
        # as the forward ran: a module may answer from a cache where autograd is off
        with torch.enable_grad():
            return self._recipe().detach()


def worthwhile(tensor: torch.Tensor) -> bool:
    """Whether replacing a saved tensor pays: only where autograd records in eager mode.

    Under torch.compile the partitioner already recomputes cheap values, and hooks would break
    the graph.
    """
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and tensor.is_contiguous()
        and tensor.numel() > 0
    )


@contextmanager
def saving(recomputed: Recomputed) -> Iterator[None]:
    """Within: an operation that saves `recomputed`'s tensor keeps its recipe instead.

    Tensors of other addresses are saved as usual. A recipe must be bitwise reproducible, so the
    gradients are those of the plain operation. Activation checkpointing around the block already
    drops these tensors: switch one of the two off.
    """

    def pack(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.Size]:
        return (tensor.shape,) if recomputed.matches(tensor) else tensor

    def unpack(packed: torch.Tensor | tuple[torch.Size]) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        return recomputed.value().view(packed[0])

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
