"""A scalar program as a readable, stand-alone Triton module: scalar functions and two kernels.

A tensor is (outer, groups, inner): one set of parameter values per group, one group for single
values. Programs own tiles of (BLOCK_G, BLOCK_I) groups by elements.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import torch

from integrand.derivation.program import Program, evaluate
from integrand.kernels.branches import resolved
from integrand.kernels.export import PYTHON, safe_names
from integrand.kernels.triton_core import Functions
from integrand.kernels.triton_trace import Trace, Value

# what the templates call something else: the pointwise one, the stand-alone one, the product
_TAKEN = re.compile(
    r"x|y|g|up|dx|dup|dout|slope|f|df|tl|triton|value|loaded|widened|rounded|store|tile|forward|backward|finish|libdevice|"
    r"mask|offsets|groups|inner|chunks|tiles|steps?|splits?|start|end|row|v\d+|"
    r"n|pid|total|real|ptr|halves|epilogue|gemm|a|b|k|t|i|j|h|acc|part|rows|columns?|first|height|left|right|"
    r"\w+_(desc|quarter)|"
    r"[A-Z]\w*|d_\w*|sum_\w*|total_\w*|\w*_(ptr|32|64)|" + PYTHON
)


def compute_bits(program: Program, dtype: torch.dtype) -> int:
    """32 or 64: the precision in which values of a storage type are computed."""
    return 64 if program.wide or dtype == torch.float64 else 32


def source(program: Program, dtype: torch.dtype, formula: str = "") -> str:
    """The Triton module of a program for one storage type; `formula` is a line for the reader."""
    return Module(program, dtype, formula).text()


class Module:
    """The parts of the source; `tables` are the numbers `tables_ptr` must point at."""

    def __init__(self, program: Program, dtype: torch.dtype, formula: str = "") -> None:
        self.program, self.dtype, self.formula = resolved(program), dtype, formula
        self.bits = compute_bits(program, dtype)
        self.functions = Functions(quick=dtype == torch.bfloat16)
        self.names = safe_names(program.params, _TAKEN)
        outputs = ["df", *(f"d_{name}" for name in program.params)]
        self.scalars = [
            self._scalar("f", ["f"], "f(x)"),
            self._scalar("df", outputs, ", ".join(["f'(x)", *(f"df/d{n}" for n in self.names)])),
        ]
        self.tables = self.functions.constants

    def _scalar(self, title: str, outputs: list[str], meaning: str) -> str:
        trace = Trace(self.bits, self.functions.quick, self.functions)
        given = {p: Value(trace, n) for p, n in zip(self.program.params, self.names, strict=True)}
        values = evaluate(self.program, trace, Value(trace, "x"), given, outputs)
        results = [trace.tensor(v) for v in values]
        returned = ", ".join(v.name for v in results)
        lines = [f'"""{meaning}."""', *trace.lines(*results), f"return {returned}"]
        head = f"@triton.jit\ndef {title}({', '.join(['x', *self.names, 'tables_ptr'])}):"
        return "\n".join([head, *(f"    {line}" for line in lines)]) + "\n"

    def header(self) -> str:
        """Docstring and imports."""
        lines = textwrap.wrap(self.formula.replace("\\", "\\\\").replace('"""', "'''"), 92)
        stored = str(self.dtype).removeprefix("torch.")
        lines += [f"Stored as {stored}, computed in float{self.bits}, rounded once."]
        lines += ["Written by integrand from the activation's scalar program."]
        return '"""' + "\n".join(lines) + '\n"""\n\n' + self.imports()

    def imports(self) -> str:
        """Triton's imports, and whether it interprets."""
        text = "import triton\nimport triton.language as tl\n"
        if "libdevice" in "".join(self.functions.text.values()):
            text += "from triton.language.extra import libdevice\n"
        return text + _MODE

    def text(self, kernels: str = "", **more: str) -> str:
        """The whole module, with these kernels or the pointwise ones."""
        args = "".join(f", {n}" for n in self.names)
        pointers = "".join(f"    {n}_ptr,\n" for n in self.names)
        fields: dict[str, Any] = {"args": args, "pointers": pointers, "bits": self.bits}
        fields["count"] = len(self.names)
        fields["scalars"] = self._lines(4, "{n} = tl.load({n}_ptr).to({real})")
        fields["tile_sums"] = self._lines(
            8,
            "if NEEDED & {bit}:",
            "    total = tl.sum(tl.sum(tl.where(mask, acc * d_{n}, 0.0), axis=1).to(tl.float64))",
            "    tl.store(partials_ptr + part * {count} + {k}, total.to({real}))",
        )
        fields["values"] = self._lines(4, "{n} = value({n}_ptr, g, groups, GROUPED, {real})")
        fields["slopes"] = "".join(f", d_{n}" for n in self.names)
        for field, depth, pattern in (
            ("totals", 4, "total_{n} = tl.zeros((BLOCK_G,), tl.float64)"),
            ("sums", 8, "sum_{n} = tl.zeros((BLOCK_G, BLOCK_I), {real})"),
            ("terms", 12, "if NEEDED & {bit}:"),
            ("flush", 8, "total_{n} += tl.sum(sum_{n}, axis=1).to(tl.float64)"),
            ("partials", 4, "if NEEDED & {bit}:"),
        ):
            body = {
                "terms": "    sum_{n} += tl.where(mask, dout * d_{n}, 0.0)",
                "partials": "    row = (split.to(tl.int64) * {count} + {k}) * groups + g\n"
                "        tl.store(partials_ptr + row, total_{n}.to({real}), mask=g < groups)",
            }.get(field)
            fields[field] = self._lines(depth, *filter(None, (pattern, body)))
        parts = [self.header(), *self.functions.text.values(), *self.scalars, HELPERS]
        return "\n\n".join([*parts, (kernels or KERNELS).format(**fields, **more)])

    def _lines(self, depth: int, *patterns: str) -> str:
        """The patterns once per parameter, indented."""
        real = f"tl.float{self.bits}"
        count = len(self.names)
        return "".join(
            " " * depth + p.format(n=n, k=k, bit=1 << k, count=count, real=real) + "\n"
            for k, n in enumerate(self.names)
            for p in patterns
        )


_MODE = """
# the interpreter flushes bf16 denormals and truncates to bf16; a GPU converts rightly, in hardware
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""

HELPERS = '''@triton.jit
def value(ptr, g, groups, GROUPED: tl.constexpr, real: tl.constexpr):
    """A parameter: one number, or one per group as a column."""
    if GROUPED:
        return tl.load(ptr + g, mask=g < groups, other=0.0).to(real)[:, None]
    else:
        return tl.load(ptr).to(real)


@triton.jit
def widened(x, real: tl.constexpr):
    """Stored elements in the precision of the computation."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        x = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(real)


@triton.jit
def rounded(y, dtype: tl.constexpr):
    """y in the storage type, rounded to nearest even, once."""
    if y.dtype == tl.float64 and (dtype == tl.bfloat16 or dtype == tl.float16):
        # to odd first: a second rounding is then as good as one
        u = y.to(tl.uint64, bitcast=True)
        sticky = ((u & 0x1FFFFFFF) + 0x1FFFFFFF) & 0x20000000
        odd = ((u >> 29 << 29) | sticky).to(tl.float64, bitcast=True)
        y = tl.where(y == y, odd, y).to(tl.float32)
    if INTERPRETED and dtype == tl.bfloat16:
        u = y.to(tl.uint32, bitcast=True)
        bits = tl.where(y == y, u + 0x7FFF + ((u >> 16) & 1), 0x7FC00000) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return y.to(dtype)


@triton.jit
def loaded(ptr, offsets, mask, real: tl.constexpr):
    """Elements in the precision of the computation, 0 outside of the mask."""
    return widened(tl.load(ptr + offsets, mask=mask, other=0.0), real)


@triton.jit
def store(ptr, offsets, y, mask):
    """Store y, rounded once."""
    tl.store(ptr + offsets, rounded(y, ptr.dtype.element_ty), mask=mask)


@triton.jit
def finish(partials_ptr, sums_ptr, splits, count, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums over all splits, in a fixed order, in float64, rounded once."""
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    for start in range(0, splits, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        mask = (rows < splits) & (columns[None, :] < count)
        offsets = rows.to(tl.int64) * count + columns[None, :]
        total += tl.load(partials_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
    sums = tl.sum(total, axis=0).to(sums_ptr.dtype.element_ty)
    tl.store(sums_ptr + columns, sums, mask=columns < count)
'''

KERNELS = '''@triton.jit
def tile(
    step,
    g,
    groups,
    inner,
    chunks,
    GROUPED: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Offsets and mask of a tile; 64-bit, as tensors may have more than 2^31 elements."""
    i = tl.arange(0, BLOCK_I)[None, :]
    if GROUPED:
        i += tl.cast(step % chunks, tl.int64) * BLOCK_I
        row = tl.cast(step // chunks, tl.int64) * groups + g[:, None]
        return row * inner + i, (g[:, None] < groups) & (i < inner)
    else:
        offsets = tl.cast(step, tl.int64) * BLOCK_I + i
        if EVEN:
            return offsets, tl.full((1, BLOCK_I), True, tl.int1)
        else:
            return offsets, offsets < inner


@triton.jit
def forward(
    x_ptr,
    up_ptr,
    y_ptr,
{pointers}    tables_ptr,
    groups,
    inner,
    chunks,
    tiles,
    GATED: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """y = f(x), or f(x) * up."""
    pid = tl.program_id(0)
    g = pid % tiles * BLOCK_G + tl.arange(0, BLOCK_G)
    offsets, mask = tile(pid // tiles, g, groups, inner, chunks, GROUPED, EVEN, BLOCK_I)
{values}    x = loaded(x_ptr, offsets, mask, tl.float{bits})
    y = f(x{args}, tables_ptr)
    if GATED:
        y = y * loaded(up_ptr, offsets, mask, tl.float{bits})
    store(y_ptr, offsets, y, mask)


@triton.jit
def backward(
    x_ptr,
    up_ptr,
    dout_ptr,
    dx_ptr,
    dup_ptr,
    y_ptr,
    partials_ptr,
{pointers}    tables_ptr,
    groups,
    inner,
    chunks,
    tiles,
    steps,
    splits,
    GATED: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN: tl.constexpr,
    KEEP: tl.constexpr,
    NEEDED: tl.constexpr,
    RUN: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """dx (and dup), and one sum per split, parameter and group; bit k of NEEDED asks for the k-th.

    With KEEP also y, the result of forward, for the product that follows it.

    A lane adds at most RUN terms in a row in float{bits}, then the lanes of a tile are added up
    (32 of a thread at most, then 2^8 threads in pairs), then float64 takes over: the error is below
    (RUN + 32 + 8 + 2) * 2^-24 of the sum of absolute terms, however many they are.
    """
    pid = tl.program_id(0)
    g = pid % tiles * BLOCK_G + tl.arange(0, BLOCK_G)
    split = pid // tiles
{values}{totals}    for start in range(split, steps, splits * RUN):
{sums}        end = tl.minimum(start + splits * RUN, steps)
        for step in tl.range(start, end, splits, num_stages=STAGES):
            offsets, mask = tile(step, g, groups, inner, chunks, GROUPED, EVEN, BLOCK_I)
            x = loaded(x_ptr, offsets, mask, tl.float{bits})
            dout = loaded(dout_ptr, offsets, mask, tl.float{bits})
            if GATED:
                y = f(x{args}, tables_ptr)
                up = loaded(up_ptr, offsets, mask, tl.float{bits})
                store(dup_ptr, offsets, dout * y, mask)
                dout = dout * up
                if KEEP:
                    store(y_ptr, offsets, y * up, mask)
            elif KEEP:
                store(y_ptr, offsets, f(x{args}, tables_ptr), mask)
            slope{slopes} = df(x{args}, tables_ptr)
            store(dx_ptr, offsets, dout * slope, mask)
{terms}{flush}{partials}'''
