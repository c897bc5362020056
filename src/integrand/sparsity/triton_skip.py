"""The same on a GPU, in Triton: rows of inactive neurons are masked, so their bytes are not read.

Nothing waits for the GPU: which rows are used is decided there. Nothing is added atomically:
results are the same bits from run to run. One token at a time. Tested in Triton's interpreter
alone: no speed on a GPU is claimed.

Dimensions: D d_model, H d_hidden.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from integrand.kernels.triton import imported, launching
from integrand.kernels.triton_print import HELPERS
from integrand.sparsity.feed_forward import Matrix

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# rows and columns of a tile, and the parts the sum over neurons is split in
BLOCK_H, BLOCK_D, SPLITS = 16, 256, 64

_KERNELS = '''import triton
import triton.language as tl

# the interpreter flushes bf16 denormals and truncates to bf16; a GPU converts rightly, in hardware
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


HELPERS@triton.jit
def up_rows(
    x_ptr, w_ptr, bias_ptr, a_ptr, sound_ptr, h_ptr, H, D, stride,
    BIASED: tl.constexpr, GATED: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """h = W x + b, times a if GATED, where a is not 0, and 0 elsewhere."""
    i = tl.program_id(0).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    a = loaded(a_ptr, i, i < H, tl.float32)
    # where 0 times a row may be NaN, every row is used
    used = (i < H) & (tl.where(tl.load(sound_ptr) == 0, 1.0, a) != 0)
    u = tl.zeros((BLOCK_H,), tl.float32)
    if tl.sum(used.to(tl.int32)) > 0:
        for start in range(0, D, BLOCK_D):
            j = start + tl.arange(0, BLOCK_D)
            mask = used[:, None] & (j < D)[None, :]
            w = loaded(w_ptr, i[:, None] * stride + j[None, :], mask, tl.float32)
            x = loaded(x_ptr, j, j < D, tl.float32)
            u += tl.sum(w * x[None, :], axis=1)
    if BIASED:
        u += loaded(bias_ptr, i, used, tl.float32)
    # stored between the two products, as a dense block does
    u = widened(rounded(u, h_ptr.dtype.element_ty), tl.float32)
    h = tl.where(used, a * u if GATED else u, 0.0)
    tl.store(h_ptr + i, rounded(h, h_ptr.dtype.element_ty), mask=i < H)


@triton.jit
def down_rows(
    h_ptr, w_ptr, sound_ptr, partials_ptr, H, D, stride, SPAN,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """The sum of h times row over SPAN neurons, for a tile of columns."""
    j = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    sound = tl.load(sound_ptr)
    first = tl.program_id(0).to(tl.int64) * SPAN
    total = tl.zeros((BLOCK_D,), tl.float32)
    for k in range(0, SPAN, BLOCK_H):
        i = first + k + tl.arange(0, BLOCK_H)
        h = loaded(h_ptr, i, i < H, tl.float32)
        used = (i < H) & (tl.where(sound == 0, 1.0, h) != 0)
        if tl.sum(used.to(tl.int32)) > 0:
            mask = used[:, None] & (j < D)[None, :]
            w = loaded(w_ptr, i[:, None] * stride + j[None, :], mask, tl.float32)
            total += tl.sum(w * h[:, None], axis=0)
    tl.store(partials_ptr + tl.program_id(0) * D + j, total, mask=j < D)


@triton.jit
def finish(
    partials_ptr, bias_ptr, y_ptr, D, SPLITS: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """y = bias + the partial sums, in their order."""
    j = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for s in range(SPLITS):
        total += tl.load(partials_ptr + s * D + j, mask=j < D, other=0.0)
    if BIASED:
        total += loaded(bias_ptr, j, j < D, tl.float32)
    tl.store(y_ptr + j, rounded(total, y_ptr.dtype.element_ty), mask=j < D)
'''


@cache
def _module() -> ModuleType:
    return imported(_KERNELS.replace("HELPERS", HELPERS.strip() + "\n\n\n"))


def sound(x: Tensor, limit: float) -> Tensor:
    """Whether max |x| is at most `limit`, on the device: int32 (1,)."""
    return (x.abs().amax() <= limit).to(torch.int32).reshape(1)


def up_rows(matrix: Matrix, x: Tensor, a: Tensor, safe: Tensor, gated: bool) -> Tensor:
    """W x + b (1, H), times a (1, H) if `gated`, where a is not 0; x (1, D)."""
    weight, bias = matrix
    h = torch.empty_like(a)
    with launching(x):
        _module().up_rows[(-(-len(weight) // BLOCK_H),)](
            *(x, weight, weight if bias is None else bias, a, safe, h),
            *(*weight.shape, weight.stride(0)),
            **{"BIASED": bias is not None, "GATED": gated},
            **{"BLOCK_H": BLOCK_H, "BLOCK_D": BLOCK_D},
        )
    return h


def down_rows(matrix: Matrix, h: Tensor, safe: Tensor) -> Tensor:
    """h W^T + b (1, D) for W (D, H) with contiguous columns, without the zeros of h (1, H)."""
    weight, bias = matrix
    d, width = weight.shape
    span = -(-width // (SPLITS * BLOCK_H)) * BLOCK_H
    splits, tiles = -(-width // span), -(-d // BLOCK_D)
    partials = h.new_empty(splits, d, dtype=torch.float32)
    y = h.new_empty(1, d)
    with launching(h):
        _module().down_rows[(splits, tiles)](
            *(h, weight, safe, partials, width, d, weight.stride(1), span),
            **{"BLOCK_H": BLOCK_H, "BLOCK_D": BLOCK_D},
        )
        _module().finish[(tiles,)](
            *(partials, y if bias is None else bias, y, d),
            **{"SPLITS": splits, "BIASED": bias is not None, "BLOCK_D": BLOCK_D},
        )
    return y
