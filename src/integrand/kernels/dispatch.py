"""Which implementation runs: `auto` the fastest that works here, a named one runs or raises."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels import ops, reference

IMPLEMENTATIONS = ("auto", "reference", "c", "triton")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_log = logging.getLogger("integrand")


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


class _C(torch.autograd.Function):
    """The same over the generated C kernel."""

    @staticmethod
    def forward(ctx: Any, kernel: Any, program: Program, x: Tensor, *params: Tensor) -> Tensor:
        ctx.kernel, ctx.program = kernel, program
        ctx.save_for_backward(x, *params)
        return kernel.forward(x, list(params))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        (dout,) = grads
        if torch.is_grad_enabled():  # create_graph: the kernel cannot be differentiated again
            dx, dparams = reference.backward(ctx.program, x, dout, params, ctx.needs_input_grad[3:])
        else:
            need_params = any(ctx.needs_input_grad[3:])
            dx, dparams = ctx.kernel.backward(x, dout, params, need_params)
            dparams = dparams if need_params else [None] * len(params)
        return None, None, dx, *dparams


def apply(program: Program, x: Tensor, params: Sequence[Tensor], impl: str = "auto") -> Tensor:
    """f(x), differentiable in x and in the parameter values.

    Args:
        x: any shape, float32, float64, bfloat16 or float16.
        params: values in the order of `program.params`, one element each or (C,) with
            C = x.shape[-1].
        impl: "auto", "reference", "c" or "triton".

    Raises:
        BackendError: the named implementation cannot run here, or the input is of another kind.
    """
    if impl not in IMPLEMENTATIONS:
        raise BackendError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got '{impl}'")
    if x.dtype not in _DTYPES:
        raise BackendError(f"x must be float32, float64, bfloat16 or float16, got {x.dtype}")
    for name, p in zip(program.params, params, strict=True):
        if p.numel() != 1 and tuple(p.shape) != tuple(x.shape[-1:]):
            raise BackendError(
                f"parameter '{name}' must have one element or shape ({x.shape[-1] if x.ndim else 1}"
                f",) like the last dim of x, got {tuple(p.shape)}"
            )
    match impl:
        case "reference":
            return _reference(program, x, params)
        case "c":
            return _run_c(program, x, params)
        case "triton":
            raise BackendError("impl='triton' is not available in this version: use 'auto'")
    return _auto(program, x, params)


def _reference(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    tracked = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in params))
    if torch.compiler.is_compiling() and not tracked:
        # dynamo breaks the graph at an autograd function that nothing differentiates
        return reference.forward(program, x, params)
    return _Reference.apply(program, x, *params)


def _auto(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _reference(program, x, params)
    if x.device.type == "cpu":
        if _c_works(program.digest, x.dtype):
            return _run_c(program, x, params)
        return _reference(program, x, params)
    if x.device.type in ("cuda", "xpu", "mps"):
        return _compiled()(program, x, *params)
    return _reference(program, x, params)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_Reference.apply, dynamic=True)


def _run_c(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    if x.device.type != "cpu":
        raise BackendError(f"impl='c' runs on CPU tensors, got one on {x.device}")
    if torch.compiler.is_compiling():
        return ops.apply(program, x, params)
    kernel = kernel_for(program, x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in params)):
        return _C.apply(kernel, program, x, *params)
    return kernel.forward(x, list(params))


def kernel_for(program: Program, dtype: torch.dtype) -> Any:
    """The loaded C kernel of a program."""
    return ops.kernel(program.digest, dtype)


@functools.cache
def _c_works(digest: str, dtype: torch.dtype) -> bool:
    try:
        ops.kernel(digest, dtype)
    except BackendError as error:
        _warn_once(str(error))
        return False
    return True


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("no C kernel, using the reference: %s", reason)
