"""f as differentiable functions: the reference in every mode of autograd, kernels in reverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from integrand.derivation.program import Program
from integrand.kernels import reference, slabs


def transformed() -> bool:
    """Whether a `torch.func` transform or a forward-mode level is active: no memory to point at."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def batched(dout: Tensor) -> bool:
    """Whether `torch.autograd.grad(..., is_grads_batched=True)` made this cotangent."""
    return not torch._C._has_storage(dout)


def tracked(x: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether autograd records what is done with these tensors."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in params))


class _Reference(torch.autograd.Function):
    """f with a backward from the scalar program; saves x and the parameter values alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(program: Program, x: Tensor, *params: Tensor) -> Tensor:
        return reference.forward(program, x, params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        program, x, *params = inputs
        ctx.program = program
        ctx.save_for_backward(x, *params)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        dx, dparams = reference.backward(ctx.program, x, grads[0], params, ctx.needs_input_grad[2:])
        return None, dx, *dparams


class _ReferenceForwardMode(_Reference):
    """The same with a forward-mode derivative, which dynamo refuses to trace."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Reference.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        # torch switches forward mode off here, which would silently zero an outer level's tangents
        with forward_ad._set_fwd_grad_enabled(True):
            x, *params = (forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors)
            return reference.tangent(ctx.program, x, params, tangents[1], tangents[2:])


class _Kernel(torch.autograd.Function):
    """The same over compiled code; what that cannot do in backward, the reference does."""

    @staticmethod
    def forward(ctx: Any, kernel: Any, program: Program, x: Tensor, *params: Tensor) -> Tensor:
        ctx.kernel, ctx.program = kernel, program
        ctx.save_for_backward(x, *params)
        return slabs.forward(kernel, x, list(params))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        (dout,) = grads
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or transformed() or batched(dout):
            dx, dparams = reference.backward(ctx.program, x, dout, params, needed)
        else:
            # a kernel that broadcasts leaves out single sums
            need: Any = list(needed) if getattr(ctx.kernel, "broadcasts", False) else any(needed)
            dx, dparams = slabs.backward(ctx.kernel, x, dout, params, need)
            dparams = dparams or [None] * len(params)
        return None, None, dx, *dparams


def by_reference(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """f(x) through the reference, differentiable in every mode."""
    if torch.compiler.is_compiling():
        # dynamo breaks the graph at an autograd function that nothing differentiates, has no vmap
        # rule for one, and a saved export cannot hold one
        plain = (
            not tracked(x, params)
            or torch.compiler.is_exporting()
            or torch._C._are_functorch_transforms_active()
        )
        if plain:
            return reference.forward(program, x, params)
        return _Reference.apply(program, x, *params)
    if transformed():
        return _ReferenceForwardMode.apply(program, x, *params)
    return _Reference.apply(program, x, *params)


def by_kernel(kernel: Any, program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """f(x) through compiled code, on plain tensors."""
    if tracked(x, params):
        return _Kernel.apply(kernel, program, x, *params)
    return slabs.forward(kernel, x, list(params))
