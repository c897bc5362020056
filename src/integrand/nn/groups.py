"""Optimiser groups: matrices decay, vectors do not, activation parameters stand apart."""

import logging
from typing import Any, cast

from torch import nn

from integrand.errors import Error
from integrand.nn.pointwise import Pointwise

NONE = "there is no integrand activation in this model: ig.swap(model, ...) first"
_log = logging.getLogger("integrand")


def activation_modules(model: nn.Module) -> dict[str, Pointwise]:
    """The integrand activations of `model` by qualified name, in order of depth."""
    return {
        name: cast(Pointwise, module)
        for name, module in model.named_modules()
        if getattr(type(module), "is_integrand_activation", False)
    }


def _foreign(model: nn.Module) -> list[str]:
    """Activation parameters of other libraries, such as transformers' XIELUActivation."""
    return [
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        if not getattr(type(module), "is_integrand_activation", False)
        for key, p in module.named_parameters(recurse=False)
        if key in ("alpha_p", "alpha_n", "beta") and p.ndim < 2 and p.requires_grad
    ]


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float = 0.1,
    lr: float | None = None,
    activation_lr_scale: float = 1.0,
    activation_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, each with `name`, `params`, `weight_decay`, `lr_scale`.

    - `matrices`: everything with two or more dimensions, embeddings included (as in Megatron and
      the xIELU runs of arXiv:2411.13010): decayed.
    - `vectors`: norms and biases: not decayed.
    - `activations`: parameters of integrand activations, whatever their shape: their own decay and
      learning rate. Raw parameters are unconstrained, so decay pulls softplus(raw) to log 2.

    With `lr`, each group carries `lr * lr_scale`; without it a schedule multiplies `lr_scale`
    itself. Tied parameters appear once, frozen ones not at all, and empty groups are left out.
    Parameters of other libraries' activations are vectors; a warning through `logging` names one.
    """
    if lr is None and activation_lr_scale != 1.0:
        raise Error(
            "activation_lr_scale takes effect only through a learning rate, and lr was not given: "
            f"got activation_lr_scale={activation_lr_scale}; pass lr=..., the rate of the matrices"
        )
    activations = {id(p) for m in activation_modules(model).values() for p in m.parameters()}
    if foreign := _foreign(model):
        _log.warning(
            "%s and %d more of other libraries' activations are among the vectors: ig.swap(model,"
            " ...) first to have them in a group of their own",
            foreign[0],
            len(foreign) - 1,
        )
    groups: dict[str, dict[str, Any]] = {
        "matrices": {"weight_decay": weight_decay, "lr_scale": 1.0},
        "vectors": {"weight_decay": 0.0, "lr_scale": 1.0},
        "activations": {
            "weight_decay": activation_weight_decay,
            "lr_scale": activation_lr_scale,
        },
    }
    for name, group in groups.items():
        group.update(name=name, params=[])
        if lr is not None:
            group["lr"] = lr * group["lr_scale"]
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        name = "vectors" if parameter.ndim < 2 else "matrices"
        name = "activations" if id(parameter) in activations else name
        groups[name]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
