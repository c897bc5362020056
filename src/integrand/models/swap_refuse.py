"""What cannot be swapped, each with its reason in one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from integrand.errors import SwapError
from integrand.models.swap_probe import why_not_pointwise

_WRAPPERS = {
    "DistributedDataParallel": "DistributedDataParallel copied its list of parameters",
    "FullyShardedDataParallel": "FSDP has sharded its parameters",
    "FSDPModule": "FSDP has sharded its parameters",
    "DeepSpeedEngine": "DeepSpeed has taken over its parameters",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_model(model: Any) -> None:
    """Raise `SwapError` for a model that no site of can be replaced."""
    if not isinstance(model, nn.Module):
        raise SwapError(f"swap takes an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"'{name}' ({type(module).__name__})" if name else type(module).__name__
        if wrapper := next((c for c in type(module).__mro__ if c.__name__ in _WRAPPERS), None):
            raise SwapError(
                f"{where} is wrapped: {_WRAPPERS[wrapper.__name__]}; swap before wrapping"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise SwapError(
                f"{where} is TorchScript, whose code is fixed; swap before torch.jit.script"
            )
        if hasattr(module, "_hf_hook") and any(p.is_meta for p in module.parameters(False)):
            raise SwapError(
                f"{where} keeps its parameters off the device (accelerate), where new ones would"
                " never be filled; swap before dispatching"
            )
        home = type(module).__module__
        if home.startswith("torch.ao.nn.intrinsic"):
            raise SwapError(
                f"{where} has its activation fused into a linear map or a convolution;"
                " swap before fusing and quantising"
            )
        whole = home.startswith("torch.ao.nn.quantized") and ".dynamic" not in home
        if whole and not type(module).__name__.endswith("PackedParams"):
            raise SwapError(
                f"{where} hands on integers, which activations of integrand do not take;"
                " swap before quantising, or quantise weights alone"
            )
    for name, parameter in model.named_parameters():
        if type(parameter.data).__name__ == "DTensor" or type(parameter).__name__ == "DTensor":
            raise SwapError(
                f"'{name}' is sharded over a device mesh, so gradients of a new parameter would"
                " stay partial; swap before sharding"
            )


def check_site(name: str, what: str, old: Any) -> None:
    """Raise `SwapError` for an activation that cannot give way without losing something."""
    if isinstance(old, nn.Module):
        if any(getattr(old, hooks) for hooks in _HOOKS) or hasattr(old, "_hf_hook"):
            raise SwapError(
                f"'{name}' ({what}) carries hooks, which would stay behind; remove them, swap,"
                " and register them on the new module"
            )
        if nn.utils.parametrize.is_parametrized(old):
            raise SwapError(
                f"'{name}' ({what}) has parametrisations, which would stay behind;"
                " remove them with torch.nn.utils.parametrize.remove_parametrizations"
            )
    if reason := why_not_pointwise(old):
        raise SwapError(f"'{name}' ({what}) is not replaced: {reason}")
