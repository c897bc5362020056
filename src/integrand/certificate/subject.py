"""What is measured: an implementation as a function x -> (y, dy/dx) in its storage type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from integrand.certificate.formats import Format
from integrand.errors import CertificationError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """An implementation under test: `call(x, params)` with params as tensors of values."""

    label: str
    impl: str
    compiled: bool
    call: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]
    params: Mapping[str, torch.Tensor]
    device: torch.device
    own: bool

    def __call__(self, x: torch.Tensor) -> tuple[Array, Array]:
        """y and dy/dx (backward with an incoming gradient of 1) at x, as fp64 arrays."""
        y, dx = self.tensors(x)
        return _wide(y), _wide(dx)

    def alone(self) -> Subject | None:
        """The same with parameters that need no gradient: another path to dx, where there is."""
        if self.compiled or not (self.own and self.params):
            return None
        return replace(self, params={k: v.detach() for k, v in self.params.items()})

    def tensors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same in the dtype of x."""
        x = x.detach().to(self.device).requires_grad_()
        y = self.call(x, self.params)
        if not isinstance(y, torch.Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            got = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
            raise CertificationError(
                f"{self.label} must map a tensor to one of the same shape and dtype, "
                f"{x.dtype} {tuple(x.shape)}, got {got}"
            )
        if not y.requires_grad:
            raise CertificationError(
                f"{self.label} must be differentiable: its output has no gradient (is it detached, "
                "or computed under torch.no_grad?)"
            )
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), allow_unused=True)
        if dx is None:
            dx = torch.zeros_like(x)
        return y.detach(), dx


def _wide(t: torch.Tensor) -> Array:
    return t.detach().cpu().double().numpy()


def subject_of(
    act: Any,
    fmt: Format,
    params: Mapping[str, float],
    *,
    impl: str,
    compiled: bool,
    candidate: Callable[[torch.Tensor], torch.Tensor] | None,
    device: str,
) -> Subject:
    """The activation's own implementation, or the candidate, eager or under torch.compile."""
    where = torch.device(device)
    tensors = {
        k: torch.tensor([v], dtype=fmt.parameter_dtype, device=where, requires_grad=True)
        for k, v in params.items()
    }
    if candidate is None:
        label, own = act.name, True

        def call(x: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return act(x, impl=impl, **values)
    else:
        label, own = _label(candidate), False

        def call(x: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return candidate(x)

    function = torch.compile(call, dynamic=False) if compiled else call
    return Subject(label, impl if own else "candidate", compiled, function, tensors, where, own)


def _label(candidate: Any) -> str:
    if isinstance(candidate, torch.nn.Module):
        return type(candidate).__name__
    return getattr(candidate, "__name__", type(candidate).__name__)
