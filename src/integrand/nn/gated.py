"""Gated forms: an activation of one projection times another projection."""

from typing import Any, Protocol

import torch
from torch import nn

from integrand.errors import Error
from integrand.kernels import apply_gated
from integrand.nn.pointwise import Pointwise
from integrand.nn.recompute import Recomputed, saving, watched, worthwhile


class MakesModule(Protocol):
    """What a block needs of an activation: a name and a way to make its module."""

    @property
    def name(self) -> str: ...

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> nn.Module: ...


def module_of(activation: MakesModule, **how: Any) -> nn.Module:
    """The module of an activation.

    Raises:
        Error: it is something else, such as a name.
    """
    if not hasattr(activation, "module"):
        raise Error(
            f"a block takes an Activation, got {activation!r}; integrand.activation(name) or "
            "integrand.derive(spec) makes one"
        )
    return activation.module(**how)


def product(act_fn: nn.Module, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """act_fn(gate) * up past the hooks of `act_fn`, in one kernel where there is one."""
    y = _one_pass(act_fn, gate, up)
    return act_fn.forward(gate) * up if y is None else y


def gated_product(
    act_fn: nn.Module, gate: torch.Tensor, up: torch.Tensor, recompute: bool = True
) -> torch.Tensor:
    """act_fn(gate) * up, saving `gate` and `up` alone for backward; all three (..., d_hidden).

    A hook on `act_fn` sees its result; without one, no such tensor need exist.
    """
    if not watched(act_fn) and (y := _one_pass(act_fn, gate, up)) is not None:
        return y
    activated = act_fn(gate)
    if not (recompute and worthwhile(activated)):
        return activated * up
    # forward, not __call__: hooks that count or record activations must see each token once
    recipe = Recomputed(activated, lambda: act_fn.forward(gate))
    with saving(recipe):
        return activated * up


def _one_pass(act_fn: nn.Module, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor | None:
    if not isinstance(act_fn, Pointwise):
        return None

    def run(values: list[torch.Tensor], gate: torch.Tensor, up: torch.Tensor) -> Any:
        return apply_gated(act_fn.program, gate, up, values, act_fn.impl)

    return act_fn.with_values(run, gate, up)


class Gated(nn.Module):
    """act(gate) * up: SwiGLU for SiLU, ReGLU for ReLU, GeGLU for GELU (arXiv:2002.05202).

    Any catalogue entry or derived activation serves as the gate. `gate` and `up` have one shape
    (..., d_hidden); so has the result.
    """

    def __init__(
        self,
        activation: MakesModule,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.act_fn = module_of(activation, dtype=dtype, device=device, shape=shape, impl=impl)
        self.recompute = recompute

    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return gated_product(self.act_fn, gate, up, self.recompute)
