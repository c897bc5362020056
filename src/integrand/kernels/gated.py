"""f(gate) * up in one pass over memory, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels import dispatch, ops, reference, triton
from integrand.kernels.autograd import batched, transformed


class _Gated(torch.autograd.Function):
    """The product over compiled code; saves gate, up and the parameter values alone."""

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
        # create_graph, or gradients batched by vmap
        if torch.is_grad_enabled() or transformed() or batched(dout):
            dup = dout * reference.forward(ctx.program, gate, params)
            dgate, dparams = reference.backward(ctx.program, gate, dout * up, params, needed)
            return None, None, dgate, dup, *dparams
        dgate, dup, dparams = ctx.kernel.backward_gated(gate, up, dout, params, any(needed))
        return None, None, dgate, dup, *(dparams or [None] * len(params))


def apply_gated(
    program: Program, gate: Tensor, up: Tensor, params: Sequence[Tensor], impl: str = "auto"
) -> Tensor | None:
    """f(gate) * up, differentiable in gate, up and the parameter values; the product is rounded
    once. None where no one kernel does it, and the caller multiplies.

    One does in eager mode, for gate and up of one shape and dtype: in C on the CPU, where
    parameters are single numbers, and in Triton.
    """
    kernel = _kernel(program, gate, up, params, impl)
    if kernel is None:
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in (gate, up, *params)):
        return _Gated.apply(kernel, program, gate, up, *params)
    return kernel.forward_gated(gate, up, list(params))


def _kernel(program: Program, gate: Tensor, up: Tensor, params: Sequence[Tensor], impl: str) -> Any:
    alike = (gate.dtype, gate.shape, gate.device) == (up.dtype, up.shape, up.device)
    plain = {type(gate), type(up)} <= {Tensor, torch.nn.Parameter}
    if not (alike and plain and dispatch.unwatched()):
        return None
    try:
        if gate.is_cpu and impl in ("auto", "c"):
            single = all(p.numel() == 1 for p in params)
            return dispatch.kernel_for(program, gate.dtype) if single else None
        on_gpu = impl == "auto" and gate.device.type in ("cuda", "xpu")
        if impl == "triton" or (on_gpu and triton.chosen(gate.device.type)):
            runs = triton.available(gate.device) is None
            return ops.kernel(ops.TRITON + program.digest, gate.dtype) if runs else None
    except BackendError:
        # a named implementation raises where it is applied, `auto` steps down there
        return None
    return None
