"""Activations that change while a model trains, and end as one that is exactly zero often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.activation import Activation, activation
from integrand.errors import Error


class SwitchedLayer(nn.Module):
    """y = first(x) until the step that begins the share `at` of the steps, then(x) from there.

    Evaluation before the switch is that of the model as it is then. `at_step` raises Error where no
    step would be left for `then`: the finished model is one with `then` alone.
    """

    is_integrand_activation = True

    def __init__(self, first: Activation, then: Activation, at: float, impl: str = "auto") -> None:
        super().__init__()
        self.first, self.then, self.at, self.impl = first, then, at, impl
        # not a buffer: the compiled step is made anew once, and has no branch left afterwards
        self.switched = False

    def values(self) -> dict[str, Tensor]:
        return {}

    def at_step(self, step: int, steps: int) -> None:
        first = round(self.at * steps)
        if first >= steps:
            raise Error(
                f"an activation must switch before the last of {steps} steps ends, got a switch at"
                f" {self.at:.6g} of them, which is step {first}; train longer or switch earlier"
            )
        self.switched = step >= first

    def forward(self, x: Tensor) -> Tensor:
        return (self.then if self.switched else self.first)(x, self.impl)


class StochasticLayer(SwitchedLayer):
    """In training x for x >= 0, and below 0 SiLU with probability p, else 0; then ReLU.

    The draws are a hash of the seed, the step, the place in x and the bits of x: they are the same
    when a block computes its hidden values again for backward, or a run goes on after a stop, and
    differ between steps, layers and micro-batches. Evaluation is ReLU at any time. A compiled run,
    whose x differ in their last bits, draws others than an eager one.
    """

    def __init__(self, p: float, at: float, seed: int, impl: str = "auto") -> None:
        super().__init__(activation("silu"), activation("relu"), at, impl)
        self.p, self.seed = p, seed
        self.register_buffer("key", torch.tensor(seed), persistent=False)

    def at_step(self, step: int, steps: int) -> None:
        super().at_step(step, steps)
        self.key.fill_(_mixed(torch.tensor(self.seed * 0x9E3779B1 + step & 0xFFFFFFFF)))

    def forward(self, x: Tensor) -> Tensor:
        if self.switched or not self.training:
            return self.then(x, self.impl)
        drawn = draws(x, self.key) < self.p
        return torch.where(x < 0, torch.where(drawn, F.silu(x), 0), x)


def draws(x: Tensor, key: Tensor) -> Tensor:
    """Numbers in [0, 1) of x's shape, in fp32: a hash of `key`, the place and the bits of x."""
    place = torch.arange(x.numel(), device=x.device).view(x.shape)
    bits = x.detach().float().contiguous().view(torch.int32).long() & 0xFFFFFFFF
    return (_mixed(_mixed(place ^ key) ^ bits) >> 8).float() * 2.0**-24


def _mixed(h: Tensor) -> Tensor:
    """Every bit of 32 spread over all of them; int64 holds the products."""
    for _ in range(2):
        h = ((h >> 16) ^ h) * 0x45D9F3B & 0xFFFFFFFF
    return (h >> 16) ^ h


@dataclass(frozen=True, slots=True)
class Switched:
    """`first` up to the share `at` of the steps, `then` from there on; the model ends with `then`.

    silu to relu at 0.8 to 0.95 is Swi+FT (arXiv:2509.22358); early in a run it is the ReLU swap of
    arXiv:2402.13516. Serves wherever `integrand.train` takes an activation.

    Raises:
        Error: a share that is not at least 0 and below 1, or an activation with parameters.
    """

    first: str = "silu"
    then: str = "relu"
    at: float = 0.9

    def __post_init__(self) -> None:
        _check_switch(self.at)
        for name in (self.first, self.then):
            if activation(name).spec.params:
                raise Error(
                    f"activations that are switched must have no parameters, got '{name}'; their"
                    " checkpoint would not be that of the finished model"
                )

    @property
    def name(self) -> str:
        return f"{self.first}, {self.then} from {self.at:.6g}"

    @property
    def spec(self) -> Any:
        return activation(self.then).spec

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> SwitchedLayer:
        return SwitchedLayer(activation(self.first), activation(self.then), self.at, impl)


@dataclass(frozen=True, slots=True)
class Stochastic:
    """Below 0 SiLU with probability p, else 0, up to the share `at` of the steps; then ReLU.

    Source: arXiv:2509.22358 (StochA; p = 0.7 and the last 5 % of the steps with ReLU). What it does
    at x >= 0 was not read: here x, so that p = 0 is ReLU. The model ends with ReLU.

    Raises:
        Error: a probability outside 0 to 1, or a share that is not at least 0 and below 1.
    """

    p: float = 0.7
    at: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise Error(f"p must be between 0 and 1, got {self.p}; pass a probability")
        _check_switch(self.at)

    @property
    def name(self) -> str:
        return f"silu below 0 with p {self.p:.6g}, relu from {self.at:.6g}, seed {self.seed}"

    @property
    def spec(self) -> Any:
        return activation("relu").spec

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> StochasticLayer:
        return StochasticLayer(self.p, self.at, self.seed, impl).to(device)


def _check_switch(at: float) -> None:
    if not 0 <= at < 1:
        raise Error(
            f"at must be at least 0 and below 1, got {at}; pass the share of the steps after which"
            " the activation switches"
        )
