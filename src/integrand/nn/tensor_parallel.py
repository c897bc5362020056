"""Tensor parallel plans: the entry for an activation between two sharded projections."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import Placement

from integrand.errors import BackendError
from integrand.nn.groups import activation_modules
from integrand.nn.shards import Layout


class ActivationParallel(ParallelStyle):
    """Parameters shared by the ranks of a mesh, each of which holds a shard of x.

        parallelize_module(model, mesh, {
            "mlp.up_proj": ColwiseParallel(),
            "mlp.act_fn": ig.nn.ActivationParallel(),
            "mlp.down_proj": RowwiseParallel(),
        })

    `ColwiseParallel` hands on plain tensors: without this entry nothing sums the parameters'
    gradients over the ranks. The parameters become replicated DTensors; their gradients are summed
    in backward. The module takes its shard as a plain tensor or a DTensor, and answers in kind.

    Args:
        input_layouts: how a plain x lies on the mesh: `Shard(-1)`, the hidden dim, by default;
            `Shard(1)` for a sequence of (B, T, C), `Shard(0)` for experts of (E, T, C),
            `Replicate()`. A DTensor brings its own.
    """

    def __init__(self, *, input_layouts: Placement | None = None) -> None:
        self.input_layouts = Shard(-1) if input_layouts is None else input_layouts
        if not isinstance(self.input_layouts, Shard | Replicate):
            raise BackendError(
                "input_layouts must be Shard(dim) or Replicate(): f of a pending sum is not the sum"
                f" of f, got {self.input_layouts}"
            )

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        self.install_forward(module, device_mesh)
        for activation in activation_modules(module).values():
            _replicate(activation, device_mesh, self.src_data_rank)
        return module

    def install_forward(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        """Declare where plain inputs lie and leave the parameters plain tensors.

        This is what transformers calls: `ALL_PARALLEL_STYLES.register("integrand",
        ig.nn.ActivationParallel())` makes "integrand" an entry for its `tp_plan`.

        Raises:
            BackendError: `module` holds no integrand activation.
        """
        found = activation_modules(module)
        if not found:
            raise BackendError(
                "ActivationParallel() belongs to an integrand activation or a block of them, got"
                f" {type(module).__name__}; replace the activation first, with ig.swap"
            )
        for activation in found.values():
            activation.layout = Layout(mesh, (self.input_layouts,))
        return module

    def shard_param(self, module: nn.Module, param: str, mesh: DeviceMesh) -> None:
        """Nothing: transformers loads parameters that stand in no plan whole on every rank."""

    def validate_param(self, *args: object, **kwargs: object) -> None:
        """Nothing: any parameter will do."""


def _replicate(module: nn.Module, mesh: DeviceMesh, source: int | None) -> None:
    for name, raw in list(module.named_parameters(recurse=False)):
        if not isinstance(raw, DTensor):
            whole = distribute_tensor(raw, mesh, [Replicate()] * mesh.ndim, src_data_rank=source)
            module.register_parameter(name, nn.Parameter(whole, requires_grad=raw.requires_grad))
