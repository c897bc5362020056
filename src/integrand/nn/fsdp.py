"""FSDP2 for models whose activation parameters stay fp32 beside bf16 weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from integrand.nn.groups import activation_modules
from integrand.nn.shards import need_distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

Model = TypeVar("Model", bound=nn.Module)


def shard(
    model: Model,
    mesh: DeviceMesh | None = None,
    *,
    blocks: Iterable[nn.Module] | None = None,
    mp_policy: MixedPrecisionPolicy | None = None,
    **options: Any,
) -> Model:
    """`fully_shard` over the activations, then the blocks, then `model`, which is returned.

    FSDP2 takes one dtype per group and casts a group's parameters and inputs to that of
    `mp_policy`. Activation parameters are a group of their own per module, so they stay fp32
    whatever the weights are, and x arrives as the block computed it.

    Args:
        mesh: of the data parallel ranks; None for all ranks. Tensor parallel plans come first.
        blocks: modules that make a group each; by default the entries of the outermost
            `nn.ModuleList`s, such as a decoder's layers.
        mp_policy: of the blocks and of the rest.
        options: passed to every `fully_shard` (`offload_policy`, ...); `reshard_after_forward`
            goes to blocks and the rest. Activations stay gathered until their backward, if there
            is to be one: a few bytes, which a block that recomputes its activation needs there.

    Raises:
        BackendError: this build of torch has no distributed package.
    """
    need_distributed()
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    activations = [m for m in activation_modules(model).values() if [*m.parameters()]]
    kept = MixedPrecisionPolicy(cast_forward_inputs=False)
    apart = options | {"mesh": mesh, "mp_policy": kept, "reshard_after_forward": False}
    for activation in activations:
        fully_shard(activation, **apart)
        activation.register_forward_hook(_reshard_without_grad)
    options |= {"mesh": mesh, "mp_policy": mp_policy or MixedPrecisionPolicy()}
    chosen = {id(block) for block in (_blocks(model) if blocks is None else blocks)}
    chosen = (chosen | {id(model)}) - {id(activation) for activation in activations}
    # FSDP2 goes bottom-up; a child comes after its parent in modules()
    for module in reversed(list(model.modules())):
        if id(module) in chosen:
            fully_shard(module, **options)
    return model


def _reshard_without_grad(activation: Any, xs: Any, y: Any) -> None:
    # no backward comes to do it, and an optimiser made then would hold gathered copies
    if not torch.is_grad_enabled():
        activation.reshard()


# what torch.compiler.disable does, which would import all of dynamo here
_reshard_without_grad._torchdynamo_disable = True  # pyrefly: ignore[missing-attribute]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)
