"""`Pointwise`: an activation as an `nn.Module` with its constrained trainable parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels import IMPLEMENTATIONS, apply, register
from integrand.nn.constraints import constrained, raw_values
from integrand.spec import Spec, saved_buffers

_HALF = (torch.float16, torch.bfloat16)


class Pointwise(nn.Module):
    """y = f(x; parameters), elementwise on tensors of any shape.

    Trainable parameters are stored raw (unconstrained), in fp32 whatever the model's type, with
    shape `(1,)` or `(C,)`; constants are buffers. Usually made by `Activation.module`.

    Args:
        spec, program: the declaration and what was derived from it.
        formula: text of f for the repr.
        dtype: type of raw parameters and constants; None keeps them fp32 through `.half()` and
            `.bfloat16()`.
        shape: `(1,)`, or `(C,)` for one value per channel of the last dim.
        impl: "auto", "reference", "c" or "triton".
    """

    is_integrand_activation = True

    def __init__(
        self,
        spec: Spec,
        program: Program,
        formula: str = "",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ):
        super().__init__()
        if impl not in IMPLEMENTATIONS:
            raise BackendError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got '{impl}'")
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"shape must be (1,) or (C,), got {tuple(shape)}")
        self.spec, self.program, self.formula, self.impl = spec, program, formula, impl
        register(program)
        self._keep_fp32 = dtype is None
        self._cached: tuple[Any, dict[str, Tensor]] | None = None
        options: dict[str, Any] = {"dtype": dtype or torch.float32, "device": device}
        for name, raw in raw_values(spec.params, spec.values()).items():
            self.register_parameter(name, nn.Parameter(torch.full(tuple(shape), raw, **options)))
        for name, p in spec.params.items():
            if not p.trainable:
                self.register_buffer(name, torch.tensor(float(p.init), **options))
        for name, value in saved_buffers(spec).items():
            self.register_buffer(name, torch.tensor(value, **options))

    def values(self) -> dict[str, Tensor]:
        """The constrained parameter values by name; differentiable in the raw parameters."""
        raw = {name: getattr(self, name) for name in self.spec.params}
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return constrained(self.spec.params, raw)
        if any(t.numel() != 1 or t.device.type != "cpu" for t in raw.values()):
            return constrained(self.spec.params, raw)
        # compared by value: a fused optimiser step does not raise a tensor's version
        state = tuple((t.item(), t.dtype) for t in raw.values())
        if self._cached is None or self._cached[0] != state:
            self._cached = (state, constrained(self.spec.params, raw))
        return self._cached[1]

    def forward(self, x: Tensor) -> Tensor:
        values = self.values() if self.spec.params else {}
        return apply(self.program, x, [values[n] for n in self.program.params], self.impl)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Pointwise:
        # bf16 raw parameters stop moving: 166 + 0.4 rounds to 166
        def keep(t: Tensor) -> Tensor:
            moved = fn(t)
            halved = moved.dtype in _HALF and t.dtype not in _HALF
            return t.to(moved.device) if self._keep_fp32 and halved else moved

        self._cached = None
        return super()._apply(keep, recurse)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(self.program)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cached": None}

    def extra_repr(self) -> str:
        values = ", ".join(f"{k}={_short(v)}" for k, v in self.values().items())
        return f"{self.spec.name}: f(x) = {self.formula}" + (f"; {values}" if values else "")


def _short(value: Tensor) -> str:
    if value.is_meta:
        return "meta"
    value = value.detach().float()
    if value.numel() == 1:
        return f"{value.item():.4g}"
    return f"{value.min().item():.4g}..{value.max().item():.4g}"
