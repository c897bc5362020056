"""Warm start: parameters under which the new activation is nearest to the old function.

min over theta of E (f_new(x; theta) - f_old(x))^2, x distributed as the old function's inputs are
in the model on given data.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import SwapError
from integrand.models.swap_edits import Edit, apply_all, revert_all
from integrand.models.swap_probe import measured_copy
from integrand.models.swap_run import Data, run
from integrand.nn.pointwise import Pointwise

SAMPLE = 1 << 15  # inputs kept per activation


class Recorder(nn.Module):
    """Calls an activation and keeps a uniform sample of its inputs, seeded."""

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.old = old
        self.inputs = torch.empty(0, dtype=torch.float64)
        self._keys = torch.empty(0)
        self._generators: dict[torch.device, torch.Generator] = {}

    def forward(self, x: Tensor) -> Tensor:
        self._keep(x.detach().flatten())
        return self.old(x)

    def _keep(self, x: Tensor) -> None:
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(0)
        # a reservoir: the inputs with the largest of independent random keys are a uniform sample
        keys = torch.rand(x.shape, device=x.device, generator=self._generators[x.device])
        keys, at = keys.topk(min(SAMPLE, len(x)))
        inputs = torch.cat([self.inputs, x[at].double().cpu()])
        keys = torch.cat([self._keys, keys.cpu()])
        self._keys, at = keys.topk(min(SAMPLE, len(keys)))
        self.inputs = inputs[at]


def measured_inputs(model: nn.Module, edits: list[Edit], data: Data) -> dict[int, Tensor]:
    """A sample of the inputs of each old activation, by id of the module that follows it.

    `edits` are those of the swap; recorders stand in for its modules while the model runs.
    """
    recorders: dict[int, Recorder] = {}
    trial = []
    for edit in edits:
        if isinstance(edit.new, Pointwise):
            old = edit.held()
            recorder = recorders.setdefault(id(edit.new), Recorder(old))
            trial.append(Edit(edit.name, edit.parent, edit.key, recorder))
        else:
            trial.append(copy.copy(edit))
    apply_all(trial)
    try:
        run(model, data)
    except SwapError as error:
        raise SwapError(f"warm_start cannot be run: {error}") from error
    except Exception as error:
        text = str(error).strip().splitlines()
        raise SwapError(
            "the model failed on the data of warm_start"
            f" ({type(error).__name__}: {text[0] if text else ''}); pass a batch that it can run"
        ) from error
    finally:
        revert_all(trial)
    for edit in trial:
        if isinstance(edit.new, Recorder) and not len(edit.new.inputs):
            raise SwapError(
                f"'{edit.name}' never ran on the data of warm_start, so its inputs cannot be"
                " measured; pass data that reaches it, or leave it out of sites="
            )
        if isinstance(edit.new, Recorder) and not edit.new.inputs.isfinite().any():
            raise SwapError(
                f"'{edit.name}' got no finite input on the data of warm_start, so there is nothing"
                " to fit to; pass data on which the model computes finite numbers"
            )
    return {key: recorder.inputs for key, recorder in recorders.items()}


def fit(old: Any, new: Pointwise, x: Tensor) -> tuple[float, float]:
    """Move the trainable parameters of `new` towards `old` on x: (residual before, after).

    The residual is RMS(f_new - f_old) / RMS(f_old). Parameters stay where no better ones are found.
    """
    x = x[x.isfinite()]
    trial: Any = measured_copy(new)
    with torch.no_grad():
        target = measured_copy(old)(x.clone()).double()
    before = _residual(trial, x, target)
    if before == 0:
        return before, before
    start = [p.detach().clone() for p in trial.parameters()]
    _minimise(trial, x, target)
    with torch.no_grad():
        for p, fitted in zip(new.parameters(), trial.parameters(), strict=True):
            p.copy_(fitted)
        after = _residual(measured_copy(new), x, target)
        if not after < before:
            for p, first in zip(new.parameters(), start, strict=True):
                p.copy_(first)
            after = before
    return before, after


def _minimise(trial: nn.Module, x: Tensor, target: Tensor) -> None:
    scale = target.square().mean().clamp_min(1e-300)
    optimiser = torch.optim.LBFGS(
        trial.parameters(),
        max_iter=200,
        tolerance_grad=1e-14,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (trial(x) - target).square().mean() / scale
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)


def _residual(f: Any, x: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        error = (f(x) - target).square().mean() / target.square().mean().clamp_min(1e-300)
    return error.sqrt().item()
