"""The activation as the epilogue of its matrix product: act(x W^T), and (dout W) * act'(h).

A generated Triton kernel of the same scalar functions; for a GPU with a tensor copy engine (Hopper
or newer), or the interpreter. Experimental: nothing in integrand uses it unasked.
"""

from __future__ import annotations

import functools
import textwrap
from types import ModuleType

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels.triton import Kernel, available, imported, launching, load
from integrand.kernels.triton_print import Module

_GEMM = '''@triton.jit
def halves(acc):
    """The left and the right half of the columns."""
    return acc.reshape(acc.shape[0], 2, acc.shape[1] // 2).permute(0, 2, 1).split()


@triton.jit
def epilogue(
    acc,
    i,
    j,
    part,
    h_desc,
    y_desc,
    dh_desc,
    partials_ptr,
{arguments}    tables_ptr,
    M,
    N,
    BACKWARD: tl.constexpr,
    KEEP: tl.constexpr,
    NEEDED: tl.constexpr,
):
    """What follows the product, for the columns from j on of the rows from i on."""
    if BACKWARD:
        # the copy engine reads zeros outside of the matrix and writes nothing there
        h = widened(h_desc.load([i, j]), tl.float{bits})
        slope{slopes} = df(h{args}, tables_ptr)
        dh_desc.store([i, j], rounded(acc * slope, {stored}))
        if KEEP:
            y_desc.store([i, j], rounded(f(h{args}, tables_ptr), {stored}))
        row = i + tl.arange(0, acc.shape[0])[:, None]
        column = j + tl.arange(0, acc.shape[1])[None, :]
        mask = (row < M) & (column < N)
{tile_sums}    else:
        h = rounded(acc, {stored})
        if KEEP:
            h_desc.store([i, j], h)
        y = f(widened(h, tl.float{bits}){args}, tables_ptr)
        y_desc.store([i, j], rounded(y, {stored}))


@triton.jit
def gemm(
    a_desc,
    b_desc,
    h_desc,
    y_desc,
    dh_desc,
    partials_ptr,
{pointers}    tables_ptr,
    M,
    N,
    K,
    BACKWARD: tl.constexpr,
    KEEP: tl.constexpr,
    NEEDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
):
    """Forward: y = f(h), h = A B^T rounded to storage and kept if KEEP.

    Backward: dh = (A B) f'(h), y = f(h) again if KEEP, and per part of a tile the parameters' sums.
    Tiles are numbered by shape alone, so sums over them are the same for any number of programs.
    """
    rows = tl.cdiv(M, BLOCK_M)
    columns = tl.cdiv(N, BLOCK_N)
{scalars}    for t in tl.range(tl.program_id(0), rows * columns, tl.num_programs(0), flatten=True):
        # tiles of BAND rows in turn: what runs at one time shares its operands in the cache
        first = t // (BAND * columns) * BAND
        height = tl.minimum(rows - first, BAND)
        i = (first + t % (BAND * columns) % height) * BLOCK_M
        j = t % (BAND * columns) // height * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            a = a_desc.load([i, k])
            b = b_desc.load([k, j]) if BACKWARD else b_desc.load([j, k]).T
            if INTERPRETED:
                # it multiplies the bits of bf16
                a = widened(a, tl.float32)
                b = widened(b, tl.float32)
            acc = tl.dot(a, b, acc)
        # a quarter of the tile at a time: all of it and what is computed of it exceed the registers
        left, right = halves(acc)
        first_quarter, second_quarter = halves(left)
        third_quarter, fourth_quarter = halves(right)
{quarters}'''


def source(program: Program, dtype: torch.dtype) -> str:
    """The Triton module of the product and its epilogues."""
    module = Module(program, dtype)
    shared = ["h_desc", "y_desc", "dh_desc", "partials_ptr", *module.names, "tables_ptr"]
    rest = textwrap.fill(", ".join([*shared, "M", "N", "BACKWARD", "KEEP", "NEEDED"]), 84)
    rest = textwrap.indent(rest, " " * 12)
    names = ("first_quarter", "second_quarter", "third_quarter", "fourth_quarter")
    calls = [
        f"        column = j + {k} * (BLOCK_N // 4)\n"
        f"        epilogue(\n            {name}, i, column, t * 4 + {k},\n{rest}\n        )\n"
        for k, name in enumerate(names)
    ]
    arguments = "".join(f"    {name},\n" for name in module.names)
    stored = f"tl.{str(dtype).removeprefix('torch.')}"
    return module.text(_GEMM, quarters="".join(calls), arguments=arguments, stored=stored)


_LOADED: dict[tuple[str, torch.dtype], tuple[Kernel, ModuleType]] = {}


def _loaded(program: Program, dtype: torch.dtype) -> tuple[Kernel, ModuleType]:
    key = (program.digest, dtype)
    if key not in _LOADED:
        _LOADED[key] = (load(program, dtype), imported(source(program, dtype)))
    return _LOADED[key]


# rows, columns and depth of a tile, warps, stages of the pipeline
BLOCKS = (128, 256, 64, 8, 3)


def forward(
    program: Program,
    x: Tensor,
    weight: Tensor,
    params: list[Tensor],
    keep: bool = True,
    blocks: tuple[int, int, int, int, int] = BLOCKS,
) -> tuple[Tensor, Tensor]:
    """(f(h), h) with h = x weight^T: x (tokens, d_in), weight (d_hidden, d_in), both contiguous.

    Without `keep`, h is empty. Parameters have one element each.
    """
    y = x.new_empty(x.shape[0], weight.shape[0])
    h = torch.empty_like(y) if keep else y.new_empty(0)
    _launch(program, x, weight, h, y, y, params, keep, 0, blocks)
    return y, h


def backward(
    program: Program,
    dout: Tensor,
    weight: Tensor,
    h: Tensor,
    params: list[Tensor],
    need_params: bool = True,
    blocks: tuple[int, int, int, int, int] = BLOCKS,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(dh, f(h), parameter gradients) for the gradient `dout` of f(h) weight^T.

    dout (tokens, d_out), weight (d_out, d_hidden), h (tokens, d_hidden), all contiguous.
    """
    dh, y = torch.empty_like(h), torch.empty_like(h)
    needed = (1 << len(params)) - 1 if need_params else 0
    sums = _launch(program, dout, weight, h, y, dh, params, True, needed, blocks)
    gradients = [total.reshape(p.shape).to(p.dtype) for total, p in zip(sums, params, strict=False)]
    return dh, y, gradients


def _launch(
    program: Program,
    a: Tensor,
    b: Tensor,
    h: Tensor,
    y: Tensor,
    dh: Tensor,
    params: list[Tensor],
    keep: bool,
    needed: int,
    blocks: tuple[int, int, int, int, int],
) -> Tensor:
    from triton.tools.tensor_descriptor import TensorDescriptor

    if reason := available(a.device):
        raise BackendError(reason)
    for t in (a, b):
        half = t.dtype in (torch.bfloat16, torch.float16)
        # the copy engine wants rows that start at multiples of 16 bytes
        if t.ndim != 2 or not t.is_contiguous() or t.shape[1] % 8 or not half:
            raise BackendError(
                "operands must be contiguous matrices of bfloat16 or float16 with rows of a "
                f"multiple of 8 elements, got {t.dtype} of shape {tuple(t.shape)}"
            )
    if any(p.numel() != 1 for p in params):
        raise BackendError("an epilogue takes parameters of one element; use impl='triton'")
    backward = dh is not y
    kernel, module = _loaded(program, a.dtype)
    (m, k), n = a.shape, b.shape[1 if backward else 0]
    if n % 8:
        raise BackendError(f"the hidden width must be a multiple of 8, got {n}")
    block_m, block_n, block_k, warps, stages = blocks
    count = -(-m // block_m) * -(-n // block_n)
    partials = a.new_empty((4 * count, len(params)) if needed else (0,), dtype=kernel.real)
    shape_b = [block_k, block_n] if backward else [block_n, block_k]
    quarter = [block_m, block_n // 4]
    # what is neither read nor written is described by what is there
    wide = [TensorDescriptor.from_tensor(t if t.numel() else y, quarter) for t in (h, y, dh)]
    with launching(a):
        module.gemm[(min(count, _multiprocessors(a.device)),)](
            TensorDescriptor.from_tensor(a, [block_m, block_k]),
            TensorDescriptor.from_tensor(b, shape_b),
            *(*wide, partials),
            *(*(p.detach().to(a.device, kernel.real) for p in params), kernel.constants(a.device)),
            *(m, n, k),
            **{"BACKWARD": backward, "KEEP": keep, "NEEDED": needed, "BAND": 8},
            **{"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k},
            **{"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True},
        )
        sums = partials.new_empty(len(params) if needed else 0)
        if needed:
            kernel.finish(partials, sums)
        return sums


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count
