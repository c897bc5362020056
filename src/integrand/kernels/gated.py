"""f(gate) * up in one pass over memory, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels import dispatch, reference


class _Gated(torch.autograd.Function):
    """The product over the generated C kernel; saves gate, up and the parameter values alone."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Any, program: Program, gate: Tensor, up: Tensor, *params: Tensor
    ) -> Tensor:
        ctx.kernel, ctx.program = kernel, program
        ctx.save_for_backward(gate, up, *params)
        return kernel.forward_gated(gate, up, list(params))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        gate, up, *params = ctx.saved_tensors
        (dout,) = grads
        needed = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # create_graph: the kernel cannot be differentiated again
            dup = dout * reference.forward(ctx.program, gate, params)
            dgate, dparams = reference.backward(ctx.program, gate, dout * up, params, needed)
            return None, None, dgate, dup, *dparams
        dgate, dup, dparams = ctx.kernel.backward_gated(gate, up, dout, params, any(needed))
        return None, None, dgate, dup, *(dparams or [None] * len(params))


def apply_gated(
    program: Program, gate: Tensor, up: Tensor, params: Sequence[Tensor], impl: str = "auto"
) -> Tensor:
    """f(gate) * up, differentiable in gate, up and the parameter values.

    One kernel, with the product rounded once, where C runs: eager CPU tensors of one shape and
    dtype, parameters that are single numbers. Elsewhere the product of `dispatch.apply` and up.
    """
    kernel = _kernel(program, gate, up, params, impl)
    if kernel is None:
        return dispatch.apply(program, gate, params, impl) * up
    if torch.is_grad_enabled() and any(t.requires_grad for t in (gate, up, *params)):
        return _Gated.apply(kernel, program, gate, up, *params)
    return kernel.forward_gated(gate, up, list(params))


def _kernel(program: Program, gate: Tensor, up: Tensor, params: Sequence[Tensor], impl: str) -> Any:
    fits = (
        impl in ("auto", "c")
        and {type(gate), type(up)} <= {Tensor, torch.nn.Parameter}
        and gate.device.type == up.device.type == "cpu"
        and gate.dtype == up.dtype
        and gate.shape == up.shape
        and all(p.numel() == 1 for p in params)
    )
    watched = (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )
    if not fits or watched:
        return None
    try:
        return dispatch.kernel_for(program, gate.dtype)
    except BackendError:
        # a named "c" raises where `apply` runs it, `auto` steps down there
        return None
