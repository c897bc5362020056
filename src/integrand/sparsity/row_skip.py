"""Products with chosen rows of a matrix, in C: what makes zeros of an activation worth something.

Dimensions: B tokens, D inputs, H rows of the matrix, n of them used.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from integrand.errors import BackendError
from integrand.kernels.c_build import library
from integrand.sparsity.feed_forward import Matrix

DTYPES = (torch.float32, torch.bfloat16)
_POINTER, _LENGTH, _COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


@cache
def kernels(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled functions of row_skip.c for one storage type.

    Raises:
        BackendError: no C compiler, or another dtype than float32 and bfloat16.
    """
    if dtype not in DTYPES:
        raise BackendError(f"the row-skipping kernels store float32 and bfloat16, got {dtype}")
    text = files("integrand.sparsity").joinpath("row_skip.c").read_text(encoding="utf-8")
    built = library("#define BF16\n" + text if dtype == torch.bfloat16 else text)
    p, n = _POINTER, _LENGTH
    built.active.argtypes, built.active.restype = [p, n, n, p], n
    built.largest.argtypes, built.largest.restype = [p, n], ctypes.c_float
    built.norm.argtypes, built.norm.restype = [p, n, n, n, _COUNT], ctypes.c_float
    built.rows.argtypes = [p, n, p, p, n, p, n, n, p, n, p, _COUNT]
    built.add_rows.argtypes = [p, n, p, p, n, p, n, n, p, _COUNT]
    return built


def active(a: Tensor) -> Tensor:
    """The columns of a (B, H) that hold anything but zeros, ascending (n,) int32. NaN is not zero.

    Like all here it takes contiguous CPU tensors of one of `DTYPES`, unchecked.
    """
    found = torch.empty(a.shape[1], dtype=torch.int32)
    n = kernels(a.dtype).active(a.data_ptr(), *a.shape, found.data_ptr())
    return _done(found, n < 0)[:n]


def largest(x: Tensor) -> float:
    """max |x|, NaN where there is one."""
    return kernels(x.dtype).largest(x.data_ptr(), x.numel())


def norm(weight: Tensor) -> float:
    """max over rows of the sum of magnitudes of W (H, D); NaN or infinite where an element is."""
    size = (weight.data_ptr(), weight.stride(0), *weight.shape, torch.get_num_threads())
    return kernels(weight.dtype).norm(*size)


def rows(matrix: Matrix, listed: Tensor | None, x: Tensor, scale: Tensor | None = None) -> Tensor:
    """x W[listed]^T + bias (B, n) for W (H, D) with contiguous rows and x (B, D), rounded.

    With `scale` (B, H) the result times scale[:, listed], rounded once more. Without `listed`, all
    rows. Source of the layout: arXiv:2312.12456.
    """
    weight, bias = matrix
    n = len(weight) if listed is None else len(listed)
    out = torch.empty(len(x), n, dtype=x.dtype)
    status = kernels(x.dtype).rows(
        *(weight.data_ptr(), weight.stride(0), _pointer(bias), _pointer(listed), n),
        *(x.data_ptr(), *x.shape, _pointer(scale), len(weight), out.data_ptr()),
        torch.get_num_threads(),
    )
    return _done(out, status)


def add_rows(matrix: Matrix, listed: Tensor | None, h: Tensor) -> Tensor:
    """h W^T + bias (B, D) for W (D, H) with contiguous columns, of `listed` alone, rounded.

    h is (B, n), column k for W[:, listed[k]]; without `listed`, (B, H).
    """
    weight, bias = matrix
    out = torch.empty(len(h), len(weight), dtype=h.dtype)
    status = kernels(h.dtype).add_rows(
        *(weight.data_ptr(), weight.stride(1), _pointer(bias), _pointer(listed), h.shape[1]),
        *(h.data_ptr(), len(h), len(weight), out.data_ptr(), torch.get_num_threads()),
    )
    return _done(out, status)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _done(out: Tensor, status: int) -> Tensor:
    if status:
        raise BackendError("the row-skipping kernel ran out of memory for its sums")
    return out
