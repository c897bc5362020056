"""Freezing the parameters of activations, and thawing them, in one call."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from integrand.errors import Error
from integrand.nn.groups import NONE, activation_modules


def freeze(model: nn.Module) -> list[str]:
    """Stop training every activation parameter of `model`; the names of those that were trained.

    `unfreeze(model, freeze(model))` leaves the model as it was. An optimiser made before keeps
    them: without a gradient it passes them over.

    Raises:
        Error: no integrand activation in `model`.
    """
    if not activation_modules(model):
        raise Error(NONE)
    trained = [name for name, p in _named(model).items() if p.requires_grad]
    _set(model, trained, False)
    return trained


def unfreeze(model: nn.Module, names: Iterable[str] | None = None) -> list[str]:
    """Train activation parameters again: those named, or all; the names of those that change.

    Where adapters are trained on a frozen model (LoRA), this adds the activations to them.

    Raises:
        Error: a name that is no activation parameter of `model`.
    """
    own = _named(model)
    wanted = list(own if names is None else names)
    if unknown := [name for name in wanted if name not in own]:
        raise Error(
            f"'{unknown[0]}' must name an activation parameter, one of: {', '.join(own) or 'none'}"
        )
    frozen = [name for name in wanted if not own[name].requires_grad]
    _set(model, frozen, True)
    return frozen


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{module}.{name}" if module else name: parameter
        for module, activation in activation_modules(model).items()
        for name, parameter in activation.named_parameters()
    }


def _set(model: nn.Module, names: list[str], trained: bool) -> None:
    own = _named(model)
    for name in names:
        own[name].requires_grad_(trained)
        if not trained:
            own[name].grad = None
