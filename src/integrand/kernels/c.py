"""The C backend: a scalar program compiled for one storage type and called on CPU tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
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


def doubles(params: Sequence[Tensor]) -> ctypes.Array[ctypes.c_double]:
    """One-element parameter values as the kernels read them."""
    return (ctypes.c_double * max(1, len(params)))(*(p.item() for p in params))


class Kernel:
    """f and its gradients. Parameters are value tensors of shape (1,) or (), or (C,) along dim -1.

    x has any shape on the CPU and is read in memory order where it is dense; results have its
    dtype and layout. Parameter gradients have their parameter's dtype and shape and are bitwise
    equal for any number of threads.
    """

    def __init__(self, program: Program, dtype: torch.dtype, formula: str = "") -> None:
        self.program, self.dtype, self.formula = program, dtype, formula

    @cached_property
    def plain(self) -> ctypes.CDLL:
        """The library for parameters that are single numbers."""
        return self._library("plain", LENGTH)

    @cached_property
    def gated(self) -> ctypes.CDLL:
        """The library for f(gate) * up, compiled when first needed."""
        return self._library("gated", LENGTH, inputs=2)

    @cached_property
    def channels(self) -> ctypes.CDLL:
        """The library for parameters per channel, compiled when first needed."""
        return self._library("channels", LENGTH, LENGTH)

    def _library(self, form: str, *sizes: Any, inputs: int = 1) -> ctypes.CDLL:
        built = library(source(self.program, self.dtype, self.formula, form))
        built.forward.argtypes = [*[POINTER] * (inputs + 1), *sizes, POINTER, COUNT]
        built.backward.argtypes = [*[POINTER] * (2 * inputs + 1), *sizes, POINTER, POINTER, COUNT]
        return built

    def forward(
        self,
        x: Tensor,
        params: Sequence[Tensor],
        out: Tensor | None = None,
        constants: Any = None,
    ) -> Tensor:
        """f(x), in `out` if given (same dtype, shape and layout as x, other memory).

        `constants` is `doubles(params)`, if the caller keeps it between calls.
        """
        self._check(x, params)
        if constants is None and any(p.numel() != 1 for p in params):
            x = x.contiguous()
            out = torch.empty_like(x) if out is None else out
            values, rows = self._stack(x, params)
            where = (x.data_ptr(), out.data_ptr(), rows, x.shape[-1], values.data_ptr())
            return _done(out, self.channels.forward(*where, torch.get_num_threads()))
        x = _dense(x)
        out = torch.empty_like(x) if out is None else out
        values = doubles(params) if constants is None else constants
        where = (x.data_ptr(), out.data_ptr(), x.numel(), values)
        return _done(out, self.plain.forward(*where, torch.get_num_threads()))

    def backward(
        self,
        x: Tensor,
        dout: Tensor,
        params: Sequence[Tensor],
        need_params: bool = True,
        dx: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """(dx, [one gradient per parameter]) for the gradient `dout` of the result.

        With `need_params` False the list is empty and its sums are not computed. `dx` receives the
        gradient if given (same dtype, shape and layout as x, other memory).
        """
        self._check(x, params)
        if any(p.numel() != 1 for p in params):
            return self._backward_channels(x.contiguous(), dout.contiguous(), params, dx)
        x = _dense(x)
        dx = torch.empty_like(x) if dx is None else dx
        return dx, self._sums(self.plain, [x, _as(x, dout), dx], params, need_params)

    def forward_gated(self, gate: Tensor, up: Tensor, params: Sequence[Tensor]) -> Tensor:
        """f(gate) * up in one pass, rounded once; single-number parameters, equal shapes."""
        self._check(gate, params)
        gate = _dense(gate)
        up, out = _as(gate, up), torch.empty_like(gate)
        values = doubles(params)
        where = (gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel(), values)
        return _done(out, self.gated.forward(*where, torch.get_num_threads()))

    def backward_gated(
        self,
        gate: Tensor,
        up: Tensor,
        dout: Tensor,
        params: Sequence[Tensor],
        need_params: bool = True,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(dgate, dup, [one gradient per parameter]), as `backward` has them."""
        self._check(gate, params)
        gate = _dense(gate)
        up, dout = _as(gate, up), _as(gate, dout)
        dgate, dup = torch.empty_like(gate), torch.empty_like(gate)
        arrays = [gate, up, dout, dgate, dup]
        return dgate, dup, self._sums(self.gated, arrays, params, need_params)

    def _sums(
        self,
        built: ctypes.CDLL,
        arrays: list[Tensor],
        params: Sequence[Tensor],
        need_params: bool,
    ) -> list[Tensor]:
        """Run a backward pass: the parameters' gradients, in their dtypes and shapes."""
        values = doubles(params)
        sums = (ctypes.c_double * len(params))() if params and need_params else None
        where = (*(t.data_ptr() for t in arrays), arrays[0].numel(), values, sums)
        _done(None, built.backward(*where, torch.get_num_threads()))
        if sums is None:
            return []
        # by way of double: a sum beyond the range of fp32 is an infinity there
        return [
            torch.full_like(p, total, dtype=torch.float64).to(p.dtype)
            for p, total in zip(params, sums, strict=False)
        ]

    def _backward_channels(
        self, x: Tensor, dout: Tensor, params: Sequence[Tensor], dx: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        dx = torch.empty_like(x) if dx is None else dx
        values, rows = self._stack(x, params)
        sums = torch.zeros_like(values)
        status = self.channels.backward(
            *(x.data_ptr(), dout.data_ptr(), dx.data_ptr(), rows, x.shape[-1]),
            *(values.data_ptr(), sums.data_ptr(), torch.get_num_threads()),
        )
        gradients = [
            (total.sum().reshape(p.shape) if p.numel() == 1 else total).to(p.dtype)
            for p, total in zip(params, sums, strict=True)
        ]
        return _done(dx, status), gradients

    def _stack(self, x: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, int]:
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

    def _check(self, x: Tensor, params: Sequence[Tensor]) -> None:
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


def _as(x: Tensor, other: Tensor) -> Tensor:
    """The other tensor with its elements in memory in the order of x."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)


def _done(result: Any, status: int) -> Any:
    if status:
        raise BackendError("the C kernel ran out of memory for its partial sums")
    return result
