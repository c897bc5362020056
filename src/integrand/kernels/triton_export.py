"""The scalar program as one stand-alone Triton file: f and f' to reuse, two kernels, a layer."""

from __future__ import annotations

import re

import torch

from integrand.errors import BackendError
from integrand.kernels.export import PYTHON, Export, safe_names, used
from integrand.kernels.torch_print import imports, layer
from integrand.kernels.triton_print import HELPERS, Module

_TAKEN = re.compile(rf"torch|nn|F|x|self|{PYTHON}")

_KERNELS = '''@triton.jit
def forward(
    x_ptr,
    y_ptr,
{pointers}    tables_ptr,
    n,
    BLOCK: tl.constexpr,
):
    """y = f(x), n elements."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
{loads}    x = loaded(x_ptr, offsets, mask, {real})
    store(y_ptr, offsets, f(x{args}, tables_ptr), mask)


@triton.jit
def backward(
    x_ptr,
    dout_ptr,
    dx_ptr,
    sums_ptr,
{pointers}    tables_ptr,
    n,
    BLOCK: tl.constexpr,
):
    """dx = dout f'(x), and per program one sum of dout df/dtheta for each parameter."""
    pid = tl.program_id(0).to(tl.int64)
    offsets = pid * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
{loads}    x = loaded(x_ptr, offsets, mask, {real})
    dout = loaded(dout_ptr, offsets, mask, {real})
    {slopes} = df(x{args}, tables_ptr)
    store(dx_ptr, offsets, dout * slope, mask)
{sums}'''

_FUNCTION = '''BLOCK = 1024
OPTIONS = {{"enable_fp_fusion": True}}
# the polynomials of tables
TABLES = {tables}


@functools.cache
def _tables(device):
    return torch.tensor(TABLES or [0.0], dtype=torch.float{bits}, device=device)


def _checked(x):
    if x.dtype != {dtype}:
        raise TypeError(f"this source was written for {dtype}, got {{x.dtype}}")
    return x.contiguous()


class _Function(torch.autograd.Function):
    """Parameters are tensors of one element; backward keeps x and their values."""

    @staticmethod
    def forward(x, *params):
        x = _checked(x)
        y = torch.empty_like(x)
        grid = (triton.cdiv(x.numel(), BLOCK),)
        if x.numel():
            forward[grid](x, y, *params, _tables(x.device), x.numel(), BLOCK, **OPTIONS)
        return y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        x, *params = ctx.saved_tensors
        x, dout = _checked(x), dout.contiguous()
        dx = torch.empty_like(x)
        grid = (triton.cdiv(x.numel(), BLOCK),)
        sums = torch.zeros(len(params), *grid, dtype=torch.float64, device=x.device)
        if x.numel():
            arrays = (x, dout, dx, sums, *params, _tables(x.device))
            backward[grid](*arrays, x.numel(), BLOCK, **OPTIONS)
        totals = sums.sum(1)
        return dx, *(t.reshape(p.shape).to(p.dtype) for t, p in zip(totals, params))
'''


def source(export: Export, dtype: torch.dtype) -> str:
    """A module for one storage type, whose layer runs the kernels on torch tensors."""
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise BackendError(
            f"Triton source stores float32, float64, bfloat16 and float16, got {dtype}"
        )
    module = Module(export.program, dtype, "")
    real = f"tl.float{module.bits}"
    kernels = _KERNELS.format(
        pointers="".join(f"    {n}_ptr,\n" for n in module.names),
        loads="".join(f"    {n} = tl.load({n}_ptr).to({real})\n" for n in module.names),
        args="".join(f", {n}" for n in module.names),
        slopes=", ".join(["slope", *(f"d_{n}" for n in module.names)]),
        sums="".join(_sum(k, n) for k, n in enumerate(module.names)),
        real=real,
    )
    function = _FUNCTION.format(tables=_numbers(module.tables), bits=module.bits, dtype=dtype)
    names = dict(zip(export.program.params, _variables(export), strict=True))
    written = layer(export, names, channels=False)
    body = [*module.functions.text.values(), *module.scalars]
    helpers = used(_helpers(), "\n".join([*body, kernels]))
    code = [*body, *helpers, kernels, function, written]
    stored = str(dtype).removeprefix("torch.")
    note = (
        f"Stored as {stored}, computed in float{module.bits}, rounded once. Needs triton and torch."
    )
    head = "import functools\n\n" + imports(written) + module.imports()
    return export.docstring(note) + "\n\n" + "\n\n".join([head, *code])


def _variables(export: Export) -> list[str]:
    return safe_names(export.program.params, _TAKEN)


def _sum(k: int, name: str) -> str:
    term = f"tl.where(mask, dout * d_{name}, 0.0)"
    return (
        f"    total = tl.sum({term}.to(tl.float64), axis=0)\n"
        f"    tl.store(sums_ptr + {k} * tl.num_programs(0) + pid, total)\n"
    )


def _helpers() -> dict[str, str]:
    """The functions that kernels are built on, by name."""
    texts = HELPERS.strip().split("\n\n\n")
    return {re.findall(r"def (\w+)", text)[0]: text + "\n" for text in texts}


def _numbers(numbers: list[float]) -> str:
    if not numbers:
        return "[]"
    rows = [", ".join(map(repr, numbers[k : k + 3])) for k in range(0, len(numbers), 3)]
    return "[\n    " + ",\n    ".join(rows) + ",\n]"
