"""An activation of a tensor that is spread over a device mesh (DTensor).

f is elementwise, so f of a shard is the shard of f: every rank runs the kernel on what it holds. A
parameter serves all ranks that hold a part of x, so what one rank computes as its gradient is one
summand, and the sum is taken over those ranks in backward. Without it each rank would follow the
gradient of its own part and the copies of the parameter would drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from integrand.errors import BackendError
from integrand.kernels.autograd import tracked

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement


class Layout(NamedTuple):
    """How a tensor lies on a mesh: one placement per dimension of the mesh."""

    mesh: DeviceMesh
    placements: tuple[Placement, ...]


class Geometry(NamedTuple):
    """Everything about a DTensor but its numbers."""

    layout: Layout
    shape: torch.Size
    stride: tuple[int, ...]


def need_distributed() -> None:
    """Raise `BackendError` on a build of torch without its distributed package."""
    if not torch.distributed.is_available():
        raise BackendError(
            "this needs a build of torch with torch.distributed, which this one lacks"
        )


def distributed(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this is a DTensor; without an import of torch.distributed."""
    return hasattr(tensor, "device_mesh")


def on_this_rank(tensor: Tensor) -> Tensor:
    """The memory behind a tensor, out of autograd's sight."""
    # a DTensor's own data_ptr() is 0
    with torch.no_grad():
        return tensor.to_local() if distributed(tensor) else tensor


def geometry(x: DTensor) -> Geometry:
    return Geometry(Layout(x.device_mesh, x.placements), x.shape, x.stride())


def rewrapped(local: Tensor, whole: Geometry) -> DTensor:
    """The DTensor whose shard on this rank is `local`."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local, *whole.layout, run_check=False, shape=whole.shape, stride=whole.stride
    )


def on_shards(function: Callable[..., Any], *xs: Tensor) -> Any:
    """function(layout, *shards) for a function elementwise in DTensors of one shape: a DTensor that
    lies as the first does, or None where that is the answer.

    Raises:
        BackendError: some of `xs` are plain tensors.
    """
    wide = [_summed(x) for x in xs if distributed(x)]
    if len(wide) < len(xs):
        raise BackendError("gate and up must both be DTensors or both be plain tensors")
    whole = geometry(wide[0])
    shards = (x.redistribute(*whole.layout).to_local() for x in wide)
    y = function(whole.layout, *shards)
    return y if y is None else rewrapped(y, whole)


def _summed(x: DTensor) -> DTensor:
    """x with its pending sums carried out: f of a sum is not the sum of f."""
    from torch.distributed.tensor import Replicate

    if not any(p.is_partial() for p in x.placements):
        return x
    return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])


def on_one_mesh(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain constants beside DTensors as DTensors; everything else as it is."""
    meshes = [t.device_mesh for t in raw.values() if distributed(t)]
    if not meshes:
        return raw
    return {k: t if distributed(t) else _replicated(t, meshes[0]) for k, t in raw.items()}


def local_parameters(raw: Mapping[str, Tensor], layout: Layout, ndim: int) -> dict[str, Tensor]:
    """This rank's values of parameters for its shard of x, with gradients summed over the mesh.

    Args:
        raw: DTensors on the mesh of `layout`, or plain tensors that all its ranks hold alike.
        layout: where x lies; ndim: its number of dimensions.

    Raises:
        BackendError: x and a parameter lie on different meshes.
    """
    return {name: _local(tensor, layout, ndim) for name, tensor in raw.items()}


def _local(raw: Tensor, layout: Layout, ndim: int) -> Tensor:
    if raw.numel() == 1 and not distributed(raw) and not tracked(raw, []):
        return raw
    wide = raw if distributed(raw) else _replicated(raw, layout.mesh)
    if wide.device_mesh != layout.mesh:
        raise BackendError(
            f"x and the parameters must lie on one device mesh, got {layout.mesh} and"
            f" {wide.device_mesh}; redistribute x, or parallelize the activation on its mesh"
        )
    own, gradient = zip(*(_share(p, raw, ndim) for p in layout.placements), strict=True)
    # sums the gradient even where the placements stay as they are
    return wide.redistribute(placements=own).to_local(grad_placements=gradient)


def _share(placement: Placement, raw: Tensor, ndim: int) -> tuple[Placement, Placement]:
    """The placements of a parameter and of its gradient along one mesh dimension of x."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    if placement.is_replicate():
        return Replicate(), Replicate()
    if not isinstance(placement, Shard):
        raise BackendError(f"x must be sharded or replicated along a mesh dim, got {placement}")
    dim = placement.dim % ndim - (ndim - raw.ndim)
    if dim < 0 or raw.shape[dim] == 1:
        return Replicate(), Partial()
    return Shard(dim), Shard(dim)


def _replicated(tensor: Tensor, mesh: DeviceMesh) -> DTensor:
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
