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
from integrand.kernels import ops, reference, slabs, triton
from integrand.kernels.autograd import by_kernel, by_reference, transformed

IMPLEMENTATIONS = ("auto", "reference", "c", "triton")
_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_PLAIN = (Tensor, torch.nn.Parameter)
# where a kernel call per slab was measured to cost what the reference's passes over x do
_SMALLEST_SLAB = 256
_log = logging.getLogger("integrand")


def apply(
    program: Program,
    x: Tensor,
    params: Sequence[Tensor],
    impl: str = "auto",
    constants: Any = None,
) -> Tensor:
    """f(x), differentiable in x and in the parameter values.

    Reverse mode runs on every implementation. Forward mode, `torch.func` transforms, the gradient
    of a gradient and `torch.jit.trace` are the reference's, whichever is named.

    Args:
        x: any shape, float32, float64, bfloat16 or float16.
        params: values in the order of `program.params`, one element each, (C,) with
            C = x.shape[-1], or any shape that broadcasts against x without enlarging it, such as
            (E, 1, 1) for x of (E, T, C).
        impl: "auto", "reference", "c" or "triton".
        constants: `constants(params)` of values that need no gradient, if the caller keeps it.

    Raises:
        BackendError: the named implementation cannot run here, or the input is of another kind.
    """
    if x.dtype not in _DTYPES:
        raise BackendError(
            f"x must be float32, float64, bfloat16 or float16, got {x.dtype}; convert it first"
        )
    if constants is None:
        _check(program, x, params)
    if torch.jit.is_tracing():  # records torch's own operators, not what a kernel writes
        return reference.forward(program, x, params)
    match impl:
        case "auto":
            return _auto(program, x, params, constants)
        case "reference":
            return by_reference(program, x, params)
        case "c":
            return _run_c(program, x, params, constants)
        case "triton":
            return _run_triton(program, x, params)
    raise BackendError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got '{impl}'")


def _check(program: Program, x: Tensor, params: Sequence[Tensor]) -> None:
    if len(params) != len(program.params):
        raise BackendError(
            f"the parameters must be {', '.join(program.params) or 'none'}; got {len(params)}"
        )
    for name, p in zip(program.params, params, strict=True):
        if p.numel() != 1 and not slabs.fits(p.shape, x.shape):
            raise BackendError(
                f"parameter '{name}' must have one element, shape ({x.shape[-1] if x.ndim else 1},)"
                f" like the last dim of x, or one that broadcasts against x of shape"
                f" {tuple(x.shape)}; got shape {tuple(p.shape)}"
            )


def unwatched() -> bool:
    """Eager mode with no trace, transform, forward-mode level or dispatch mode over it."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or transformed()
        or torch._C._len_torch_dispatch_stack()
    )


def constants(params: Sequence[Tensor]) -> Any:
    """One-element parameter values as a C kernel reads them."""
    from integrand.kernels import c

    return c.doubles(params)


def _auto(program: Program, x: Tensor, params: Sequence[Tensor], constants: Any) -> Tensor:
    if torch.compiler.is_compiling() or transformed() or type(x) not in _PLAIN:
        return by_reference(program, x, params)
    if x.is_cpu:
        kernel = _c_kernel(program.digest, x.dtype)
        if kernel is None or (constants is None and not _worthwhile(x, params)):
            return by_reference(program, x, params)
        return _kernel_or_op(kernel, program, x, params, constants)
    if x.device.type in ("cuda", "xpu", "mps") and not torch._C._len_torch_dispatch_stack():
        if triton.chosen(x.device.type):
            return _run_triton(program, x, params)
        return _compiled()(program, x, *params)
    return by_reference(program, x, params)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(by_reference, dynamic=True)


def _run_c(program: Program, x: Tensor, params: Sequence[Tensor], constants: Any) -> Tensor:
    if not x.is_cpu:
        raise BackendError(f"impl='c' runs on CPU tensors, got one on {x.device}; use 'auto'")
    if torch.compiler.is_compiling() or type(x) not in _PLAIN:
        return ops.apply(program, x, params)
    if transformed():
        return by_reference(program, x, params)
    return _kernel_or_op(kernel_for(program, x.dtype), program, x, params, constants)


def _kernel_or_op(
    kernel: Any, program: Program, x: Tensor, params: Sequence[Tensor], constants: Any
) -> Tensor:
    if torch._C._len_torch_dispatch_stack():  # a dispatch mode sees operators, not C calls
        return ops.apply(program, x, params)
    if constants is not None and not (x.requires_grad and torch.is_grad_enabled()):
        return kernel.forward(x, params, constants=constants)
    return by_kernel(kernel, program, x, params)


def _worthwhile(x: Tensor, params: Sequence[Tensor]) -> bool:
    dims = slabs.leading(x, params)
    count = x.shape[:dims].numel()
    if dims == 0 or x.numel() >= _SMALLEST_SLAB * count:
        return True
    _log_once(
        f"parameters that differ between slabs of fewer than {_SMALLEST_SLAB} elements use the"
        " reference"
    )
    return False


def _run_triton(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    if torch.compiler.is_compiling():
        return ops.apply(program, x, params, ops.TRITON)
    if reason := triton.available(x.device):
        raise BackendError(reason)
    if transformed():
        return by_reference(program, x, params)
    if not unwatched() or type(x) not in _PLAIN:
        return ops.apply(program, x, params, ops.TRITON)
    return by_kernel(ops.kernel(ops.TRITON + program.digest, x.dtype), program, x, params)


def kernel_for(program: Program, dtype: torch.dtype) -> Any:
    """The loaded C kernel of a program."""
    return ops.kernel(program.digest, dtype)


@functools.cache
def _c_kernel(digest: str, dtype: torch.dtype) -> Any:
    try:
        return ops.kernel(digest, dtype)
    except BackendError as error:
        _warn_once(str(error))
        return None


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("no C kernel, using the reference: %s", reason)


@functools.cache
def _log_once(text: str) -> None:
    _log.info(text)
