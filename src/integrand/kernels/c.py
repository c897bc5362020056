"""The C backend: a scalar program compiled for one storage type and called on CPU tensors."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels.c_build import compiler, library
from integrand.kernels.c_print import STORAGE, source

POINTER, LENGTH, COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


def load(program: Program, dtype: torch.dtype, formula: str = "") -> Kernel:
    """The kernel of a program for one dtype, compiled now unless the cache has it.

    Raises BackendError where there is no compiler, or for another dtype than float32, float64,
    bfloat16 and float16.
    """
    if dtype not in STORAGE:
        names = ", ".join(str(d).removeprefix("torch.") for d in STORAGE)
        raise BackendError(f"a C kernel stores {names}, got {dtype}; convert x first")
    compiler()
    kernel = Kernel(program, dtype, formula)
    _ = kernel.plain
    return kernel


class Kernel:
    """f and its gradients. Parameters are value tensors of shape (1,) or (), or (C,) along dim -1.

    x has any shape on the CPU and is read in memory order where it is dense; results have its
    dtype and layout. Parameter gradients have their parameter's dtype and shape and are bitwise
    equal for any number of threads.
    """

    def __init__(self, program: Program, dtype: torch.dtype, formula: str = "") -> None:
        self.program, self.dtype, self.formula = program, dtype, formula
        self._doubles = ctypes.c_double * max(1, len(program.params))

    @cached_property
    def plain(self) -> ctypes.CDLL:
        """The library for parameters that are single numbers."""
        built = library(source(self.program, self.dtype, self.formula))
        built.forward.argtypes = [POINTER, POINTER, LENGTH, POINTER, COUNT]
        built.backward.argtypes = [POINTER, POINTER, POINTER, LENGTH, POINTER, POINTER, COUNT]
        return built

    @cached_property
    def channels(self) -> ctypes.CDLL:
        """The library for parameters per channel, compiled when first needed."""
        built = library(source(self.program, self.dtype, self.formula, per_channel=True))
        built.forward.argtypes = [POINTER, POINTER, LENGTH, LENGTH, POINTER, COUNT]
        built.backward.argtypes = [
            *(POINTER, POINTER, POINTER, LENGTH, LENGTH),
            *(POINTER, POINTER, COUNT),
        ]
        return built

    def forward(self, x: Tensor, params: list[Tensor], out: Tensor | None = None) -> Tensor:
        """f(x), in `out` if given (same dtype, shape and layout as x, other memory)."""
        self._check(x, params)
        threads = torch.get_num_threads()
        if any(p.numel() != 1 for p in params):
            x = x.contiguous()
            out = torch.empty_like(x) if out is None else out
            values, rows = self._stack(x, params)
            status = self.channels.forward(
                *(x.data_ptr(), out.data_ptr(), rows, x.shape[-1], values.data_ptr(), threads)
            )
            return _done(out, status)
        x = _dense(x)
        out = torch.empty_like(x) if out is None else out
        values = self._doubles(*(p.item() for p in params))
        status = self.plain.forward(x.data_ptr(), out.data_ptr(), x.numel(), values, threads)
        return _done(out, status)

    def backward(
        self, x: Tensor, dout: Tensor, params: list[Tensor], need_params: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """(dx, [one gradient per parameter]) for the gradient `dout` of the result.

        With `need_params` False the list is empty and its sums are not computed.
        """
        self._check(x, params)
        threads = torch.get_num_threads()
        if any(p.numel() != 1 for p in params):
            return self._backward_channels(x.contiguous(), dout.contiguous(), params, threads)
        x = _dense(x)
        dx = torch.empty_like(x)
        if dout.stride() != x.stride():
            dout = torch.empty_like(x).copy_(dout)
        values = self._doubles(*(p.item() for p in params))
        sums = self._doubles() if params and need_params else None
        status = self.plain.backward(
            *(x.data_ptr(), dout.data_ptr(), dx.data_ptr(), x.numel(), values, sums, threads)
        )
        if sums is None:
            return _done(dx, status), []
        # by way of double: a sum beyond the range of fp32 is an infinity there
        gradients = [
            torch.full_like(p, total, dtype=torch.float64).to(p.dtype)
            for p, total in zip(params, sums, strict=False)
        ]
        return _done(dx, status), gradients

    def _backward_channels(
        self, x: Tensor, dout: Tensor, params: list[Tensor], threads: int
    ) -> tuple[Tensor, list[Tensor]]:
        dx = torch.empty_like(x)
        values, rows = self._stack(x, params)
        sums = torch.zeros_like(values)
        status = self.channels.backward(
            *(x.data_ptr(), dout.data_ptr(), dx.data_ptr(), rows, x.shape[-1]),
            *(values.data_ptr(), sums.data_ptr(), threads),
        )
        gradients = [
            (total.sum().reshape(p.shape) if p.numel() == 1 else total).to(p.dtype)
            for p, total in zip(params, sums, strict=True)
        ]
        return _done(dx, status), gradients

    def _stack(self, x: Tensor, params: list[Tensor]) -> tuple[Tensor, int]:
        """The parameter values as doubles of shape (parameters, channels), and the rows of x."""
        width = x.shape[-1] if x.dim() else 1
        for name, p in zip(self.program.params, params, strict=True):
            if p.numel() != 1 and tuple(p.shape) != (width,):
                raise BackendError(
                    f"parameter {name} must have shape (1,) or ({width},), the last dimension of "
                    f"x, got {tuple(p.shape)}"
                )
        values = torch.stack([p.detach().double().reshape(-1).expand(width) for p in params])
        return values, x.numel() // width if width else 0

    def _check(self, x: Tensor, params: list[Tensor]) -> None:
        if x.dtype is not self.dtype or x.device.type != "cpu":
            raise BackendError(
                f"this C kernel runs on {self.dtype} tensors on the CPU, "
                f"got {x.dtype} on {x.device}"
            )
        if len(params) != len(self.program.params):
            wanted = ", ".join(self.program.params) or "none"
            raise BackendError(f"the parameters must be {wanted}; got {len(params)} values")


def _dense(x: Tensor) -> Tensor:
    """x itself if its elements fill one stretch of memory, in whatever order, else a copy."""
    if x.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(x):
        return x
    return x.contiguous()


def _done(result: Any, status: int) -> Any:
    if status:
        raise BackendError("the C kernel ran out of memory for its partial sums")
    return result
