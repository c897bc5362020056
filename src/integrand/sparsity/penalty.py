"""A progressive L1 penalty on the hidden values of feed-forward blocks.

Dimensions: H d_hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from integrand.errors import Error
from integrand.nn.gated import MakesModule
from integrand.sparsity.feed_forward import feed_forwards


class Stage(NamedTuple):
    """Until the share `end` of the steps lambda goes to `rate`; it starts at the first rate."""

    end: float
    rate: float


def progressive(t: float, stages: Sequence[Stage]) -> float:
    """lambda at the time t, for stages that end at T_1 < ... < T_S with rates that do not fall.

        lambda_1                                                          for t <= T_1
        lambda_{i-1} + eta (lambda_i - lambda_{i-1})                      for T_{i-1} < t <= T_i
            eta = (sin(-pi/2 + pi (t - T_{i-1}) / (T_i - T_{i-1})) + 1) / 2
        lambda_S                                                          for t > T_S

    Any unit of time serves. Source: arXiv:2402.13516, section 3.
    """
    before = stages[0]
    for stage in stages:
        if t <= stage.end:
            if stage is before:
                return stage.rate
            phase = (t - before.end) / (stage.end - before.end)
            eta = (math.sin(-math.pi / 2 + math.pi * phase) + 1) / 2
            return before.rate + eta * (stage.rate - before.rate)
        before = stage
    return before.rate


class L1(nn.Module):
    """h itself; its backward adds the gradient of rate * (mean over tokens of ||h||_1).

    h is (..., H), the norm a sum over H, and the mean one over all the leading dimensions, divided
    by `parts` where a step is made of that many calls. `at_step` sets the rate.
    """

    rate: Tensor

    def __init__(self, stages: Sequence[Stage], parts: int = 1, device: Any = None) -> None:
        super().__init__()
        self.stages, self.parts = tuple(stages), parts
        # a buffer, so that a compiled step does not depend on its number; not part of a checkpoint
        start = torch.tensor(stages[0].rate, dtype=torch.float32, device=device)
        self.register_buffer("rate", start, persistent=False)

    def at_step(self, step: int, steps: int) -> None:
        self.rate.fill_(progressive(step / steps, self.stages))

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or h.numel() == 0:
            return h
        return _AddL1.apply(h, self.rate / (h.numel() // h.shape[-1] * self.parts))


class _AddL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(h, rate)
        return h.view_as(h)  # the same memory: a block that recomputes h knows it by its address

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        h, rate = ctx.saved_tensors
        (dout,) = grads
        return dout + (rate * h.sign()).to(dout.dtype), None


def penalise(model: nn.Module, stages: Sequence[Stage], parts: int = 1) -> list[L1]:
    """Add lambda * sum over layers of (mean over tokens of ||h||_1) to what `model` minimises.

    h is what enters the map back of each feed-forward block. The loss that a step reports stays
    its own: only gradients change. Call it before torch.compile and FSDP; of each training step
    call `at_step(step, steps)` of every `L1` first (`integrand.train` does). A step of `parts`
    backward passes of equal size takes the mean over all of them; ranks whose gradients are
    averaged need nothing. A penalty that takes the mean over layers is this one with lambda /
    layers (arXiv:2603.23198: 2e-5 for the mean). The published lambdas of arXiv:2402.13516 belong
    to a normalisation that its text does not give. The penalty knows of no loss scale: where
    gradients are unscaled, as by `torch.amp.GradScaler`, lambda is divided by the scale too.

    A copy of the model has penalties of its own; `remove_penalty` takes them away.

    Raises:
        Error: stages that are no schedule, no feed-forward block, or a penalty already.
    """
    _check(stages)
    if any(isinstance(module, L1) for module in model.modules()):
        raise Error(
            "a model must have no penalty before it gets one, got one that has, whose gradient"
            " would count twice; call remove_penalty(model) first"
        )
    added = []
    for block in feed_forwards(model):
        penalty = L1(stages, parts, block.matrices()[2].weight.device).train(block.module.training)
        block.down.add_module("penalty", penalty)
        block.down.register_forward_pre_hook(_penalised)
        added.append(penalty)
    return added


def remove_penalty(model: nn.Module) -> None:
    """Take away what `penalise` has added, if anything."""
    for module in list(model.modules()):
        for key in [k for k, hook in module._forward_pre_hooks.items() if hook is _penalised]:
            del module._forward_pre_hooks[key]
            del module.penalty


def _penalised(down: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    # looked up, not held: a deep copy of the model is to use the penalty that it has itself
    return (down.get_submodule("penalty")(given[0]), *given[1:])


def _check(stages: Sequence[Stage]) -> None:
    ends, rates = [s.end for s in stages], [s.rate for s in stages]
    ascending = all(a < b for a, b in pairwise(ends)) and rates == sorted(rates)
    if not (stages and ascending and ends[0] >= 0 and rates[0] >= 0 and rates[-1] < math.inf):
        listed = ", ".join(f"({end}, {rate})" for end, rate in stages) or "none"
        raise Error(
            "stages of a penalty must end later and later, with rates that are finite, at least 0"
            f" and do not fall, got {listed}; write Stage(end, rate) with the end as a share of the"
            " steps"
        )


@dataclass(frozen=True, slots=True)
class Penalised:
    """An activation of a run whose blocks carry the penalty; the finished model is that of `of`.

    It serves wherever `integrand.train` takes an activation; the name says all of it.

    Raises:
        Error: stages that are no schedule.
    """

    of: MakesModule
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        _check(self.stages)

    @property
    def name(self) -> str:
        listed = ", ".join(f"{rate:.6g} to {end:.6g}" for end, rate in self.stages)
        return f"{self.of.name}, L1 {listed}"

    @property
    def spec(self) -> Any:
        return getattr(self.of, "spec", None)

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> nn.Module:
        return self.of.module(dtype=dtype, device=device, shape=shape, impl=impl)

    def attach(self, model: nn.Module, parts: int) -> None:
        """Called once by `integrand.train` on the model of a run."""
        penalise(model, self.stages, parts)
