"""The Triton backend: a scalar program as generated kernels, called on tensors of a GPU.

With `TRITON_INTERPRET=1` the same source runs on CPU tensors.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from integrand import cache
from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels.triton_print import Module, compute_bits, source

__all__ = ["Kernel", "available", "chosen", "load", "source"]

_log = logging.getLogger("integrand")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# partial sums of one parameter and group: 4 programs on each of an H200's 132 multiprocessors. A
# constant, so that how the terms of a sum are grouped depends on the tensor's shape alone
SPLITS = 528
# terms of one lane added in fp32 before fp64 takes over
RUN = 16


# partial sums held at a time where they are added up: all of them, for up to 4 parameters
HELD = 8192


@dataclass(frozen=True)
class Blocks:
    """Elements of a tile, warps of a program, stages of a loop's pipeline (1: none)."""

    elements: int = 1024
    warps: int = 4
    stages: int = 1


# forward and backward, the fastest of sweeps on an H200 (benchmarks/gpu.py); bf16 computes less
_BLOCKS = {
    torch.bfloat16: (Blocks(4096, 4), Blocks(2048, 4, 3)),
    torch.float16: (Blocks(1024, 4), Blocks(2048, 8, 4)),
    torch.float32: (Blocks(1024, 4), Blocks(1024, 4, 3)),
}


@functools.cache
def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors.

    Raises BackendError where Triton is not installed or too old.
    """
    try:
        from triton import knobs
    except ImportError:
        raise BackendError(
            "impl='triton' needs the package triton, version 3.4 or newer (Linux); "
            "install it, or use impl='auto'"
        ) from None
    return bool(knobs.runtime.interpret)


def available(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on tensors of that device; None if they can."""
    try:
        simulated = interpreted()
    except BackendError as error:
        return str(error)
    if device.type == "cpu" and not simulated:
        return (
            "impl='triton' runs on a GPU's tensors, got a CPU tensor; move it there, use "
            "impl='c', or set TRITON_INTERPRET=1 before Python starts"
        )
    if device.type not in ("cuda", "xpu") and not simulated:
        return f"impl='triton' runs on a GPU's tensors, got one on {device}; use impl='reference'"
    return None


@functools.cache
def chosen(kind: str) -> bool:
    """Whether `auto` runs Triton on that type of device; says why not, once."""
    reason = available(torch.device(kind))
    if reason is not None:
        _log.warning("no Triton kernel, using the compiled reference: %s", reason)
    return reason is None


def load(program: Program, dtype: torch.dtype, formula: str = "") -> Kernel:
    """The kernels of a program for one storage type, written and imported now.

    Raises BackendError without Triton, or for another dtype than float32, float64, bfloat16 and
    float16.
    """
    if dtype not in _DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES)
        raise BackendError(f"a Triton kernel stores {names}, got {dtype}; convert x first")
    interpreted()
    kernel = Kernel(program, dtype, formula)
    _ = kernel.module
    return kernel


def imported(text: str) -> ModuleType:
    """The text as a module. Triton reads its kernels' source from a file, so it becomes one."""
    name = f"triton_{hashlib.sha256(text.encode()).hexdigest()[:40]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            f"integrand.generated.{name}", cache.plain(f"{name}.py", text.encode())
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


@dataclass(frozen=True)
class _Layout:
    """x as (outer, groups, inner): the parameters' values are one per group."""

    outer: int
    groups: int
    inner: int
    varying: tuple[int, ...]

    def tile(self, elements: int) -> _Tile:
        """Tiles of about that many elements."""
        block_i = min(elements, _power_of_2(self.inner))
        block_g = min(elements // block_i, _power_of_2(self.groups))
        chunks, tiles = -(-self.inner // block_i), -(-self.groups // block_g)
        return _Tile(block_g, block_i, chunks, tiles, self.outer * chunks)

    def spread(self, shape: torch.Size) -> list[int]:
        """The shape of one value per group that broadcasts to x."""
        return [size if d in self.varying else 1 for d, size in enumerate(shape)]


@dataclass(frozen=True)
class _Tile:
    """A tile's groups and elements, and their numbers: along inner, along groups, per group."""

    block_g: int
    block_i: int
    chunks: int
    tiles: int
    steps: int


class Kernel:
    """f and its gradients. Parameters are value tensors that broadcast to the shape of x.

    x has any shape and is read in memory order where it is dense (contiguous for parameters of
    more than one element); results have its dtype and layout. Parameter gradients are bitwise
    equal from run to run. Nothing waits for the GPU. `blocks` and `backward_blocks` set the tiles.
    """

    broadcasts = True

    def __init__(self, program: Program, dtype: torch.dtype, formula: str = "") -> None:
        self.program, self.dtype, self.formula = program, dtype, formula
        bits = compute_bits(program, dtype)
        self.real = torch.float64 if bits == 64 else torch.float32
        wide = (Blocks(), Blocks())
        self.blocks, self.backward_blocks = _BLOCKS[dtype] if bits == 32 else wide
        self._tables: dict[torch.device, Tensor] = {}

    @cached_property
    def printed(self) -> Module:
        return Module(self.program, self.dtype, self.formula)

    @cached_property
    def module(self) -> ModuleType:
        return imported(self.printed.text())

    def forward(self, x: Tensor, params: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """f(x), in `out` if given (same dtype, shape and layout as x, other memory)."""
        return self._forward(x, x, params, out)

    def forward_gated(self, gate: Tensor, up: Tensor, params: Sequence[Tensor]) -> Tensor:
        """f(gate) * up, rounded once."""
        return self._forward(gate, up, params, None)

    def backward(
        self,
        x: Tensor,
        dout: Tensor,
        params: Sequence[Tensor],
        need_params: Any = True,
        y: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """(dx, [one gradient per parameter]) for the gradient `dout` of the result.

        `need_params` is a bool, or one per parameter; what is not needed is None. With False the
        list is empty. f(x) is written to `y` as well, if given (dtype, shape and layout of x).
        """
        dx, _, dparams = self._backward(x, x, dout, params, need_params, y)
        return dx, dparams

    def backward_gated(
        self,
        gate: Tensor,
        up: Tensor,
        dout: Tensor,
        params: Sequence[Tensor],
        need_params: Any = True,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """(dgate, dup, [one gradient per parameter]) of f(gate) * up, which `y` takes if given."""
        return self._backward(gate, up, dout, params, need_params, y)

    def _forward(
        self, x: Tensor, up: Tensor, params: Sequence[Tensor], out: Tensor | None
    ) -> Tensor:
        gated = up is not x
        layout = self._check(x, up, params)
        x = _dense(x, layout)
        up = _like(up, x) if gated else x
        out = torch.empty_like(x) if out is None else out
        if x.numel():
            t = layout.tile(self.blocks.elements)
            with launching(x):
                self.module.forward[(t.tiles * t.steps,)](
                    *(x, up, out, *self._values(params, x, layout), self.constants(x.device)),
                    *(layout.groups, layout.inner, t.chunks, t.tiles),
                    **self._options(t, layout, gated, self.blocks),
                )
        return out

    def _backward(
        self,
        x: Tensor,
        up: Tensor,
        dout: Tensor,
        params: Sequence[Tensor],
        need: Any,
        y: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        gated = up is not x
        layout = self._check(x, up, params)
        x = _dense(x, layout)
        up, dout = _like(up, x) if gated else x, _like(dout, x)
        needed = [need] * len(params) if isinstance(need, bool) else list(need)
        dx = torch.empty_like(x)
        dup = torch.empty_like(x) if gated else dx
        dparams: list[Tensor | None] = [None] * (0 if need is False else len(params))
        blocks = self.backward_blocks
        t = layout.tile(blocks.elements)
        splits = max(1, min(t.steps, SPLITS // t.tiles)) if any(needed) else t.steps
        shape = (splits, len(params), layout.groups)
        partials = x.new_empty(shape if any(needed) else (0,), dtype=self.real)
        # single numbers are summed over groups too, which must not round in between
        sums = x.new_empty(shape[1:], dtype=torch.float64 if layout.groups > 1 else self.real)
        stages = blocks.stages if any(needed) else 1
        with launching(x):
            if x.numel():
                self.module.backward[(t.tiles * splits,)](
                    *(x, up, dout, dx, dup, dx if y is None else y, partials),
                    *(*self._values(params, x, layout), self.constants(x.device)),
                    *(layout.groups, layout.inner, t.chunks, t.tiles, t.steps, splits),
                    **{"NEEDED": sum(1 << k for k, wanted in enumerate(needed) if wanted)},
                    **{"KEEP": y is not None, "RUN": RUN},
                    **{"STAGES": stages, **self._options(t, layout, gated, blocks)},
                )
            if any(needed):
                self.finish(partials, sums) if x.numel() else sums.zero_()
                dparams = [
                    _sum_to(total.reshape(layout.spread(x.shape)), p) if wanted else None
                    for total, p, wanted in zip(sums, params, needed, strict=True)
                ]
        return dx, dup, dparams

    def finish(self, partials: Tensor, sums: Tensor) -> None:
        """The sums over the first dim."""
        splits, count = partials.shape[0], sums.numel()
        columns = min(16, _power_of_2(count))
        rows = min(HELD // columns, _power_of_2(splits))
        self.module.finish[(-(-count // columns),)](
            partials, sums, splits, count, ROWS=rows, COLUMNS=columns, num_warps=8
        )

    def _options(self, t: _Tile, layout: _Layout, gated: bool, blocks: Blocks) -> dict[str, Any]:
        return {
            **{"GATED": gated, "GROUPED": layout.groups > 1},
            "EVEN": layout.inner % t.block_i == 0,
            **{"BLOCK_G": t.block_g, "BLOCK_I": t.block_i, "num_warps": blocks.warps},
            # the functions are made for fused products; later versions do not fuse unasked
            "enable_fp_fusion": True,
        }

    def _values(self, params: Sequence[Tensor], x: Tensor, layout: _Layout) -> list[Tensor]:
        """The parameters in the precision of the computation, one number or one per group."""
        values = [p.detach().to(x.device, self.real) for p in params]
        if layout.groups == 1:
            return values
        return [p.expand(layout.spread(x.shape)).contiguous() for p in values]

    def constants(self, device: torch.device) -> Tensor:
        """The coefficients of the tables, copied to the device at the first call."""
        if device not in self._tables:
            numbers = self.printed.tables or [0.0]
            self._tables[device] = torch.tensor(numbers, dtype=self.real, device=device)
        return self._tables[device]

    def _check(self, x: Tensor, other: Tensor, params: Sequence[Tensor]) -> _Layout:
        if reason := available(x.device):
            raise BackendError(reason)
        if x.dtype is not self.dtype:
            raise BackendError(f"this Triton kernel runs on {self.dtype} tensors, got {x.dtype}")
        if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
            raise BackendError(
                f"gate and up must have one shape, dtype and device, got {tuple(x.shape)} "
                f"{x.dtype} on {x.device} and {tuple(other.shape)} {other.dtype} on {other.device}"
            )
        if len(params) != len(self.program.params):
            wanted = ", ".join(self.program.params) or "none"
            raise BackendError(f"the parameters must be {wanted}; got {len(params)} values")
        return _layout(x.shape, tuple(p.shape for p in params), self.program.params)


@functools.lru_cache(4096)
def _layout(shape: torch.Size, params: tuple[torch.Size, ...], names: tuple[str, ...]) -> _Layout:
    """The dims of x along which parameters vary, and everything between, are its groups."""
    varying: set[int] = set()
    for name, p in zip(names, params, strict=True):
        if p.numel() == 1:
            continue
        shift = len(shape) - len(p)
        own = {d + shift for d, size in enumerate(p) if size != 1}
        if any(d < 0 or shape[d] != p[d - shift] for d in own):
            raise BackendError(
                f"parameter {name} must have one element or broadcast to the shape of x, "
                f"{tuple(shape)}, got {tuple(p)}"
            )
        varying |= own
    if not varying:
        return _Layout(1, 1, shape.numel(), ())
    first, last = min(varying), max(varying)
    return _Layout(
        math.prod(shape[:first]),
        math.prod(shape[first : last + 1]),
        math.prod(shape[last + 1 :]),
        tuple(range(first, last + 1)),
    )


def _sum_to(total: Tensor, p: Tensor) -> Tensor:
    """The gradient of one parameter from its sums per group."""
    if p.numel() == 1:
        total = total if total.numel() == 1 else total.sum()
        return total.reshape(p.shape).to(p.dtype)
    return total.sum_to_size(p.shape).to(p.dtype)


def _dense(x: Tensor, layout: _Layout) -> Tensor:
    """x itself if its elements fill one stretch of memory, in whatever order, else a copy."""
    if layout.groups > 1:
        return x.contiguous()
    # a clone has the strides of empty_like
    return x if torch.ops.aten.is_non_overlapping_and_dense(x) else x.clone()


def _like(t: Tensor, x: Tensor) -> Tensor:
    """t with the strides of x."""
    if t.stride() == x.stride() and t.dtype == x.dtype:
        return t
    return torch.empty_like(x).copy_(t)


def launching(x: Tensor) -> Any:
    """Where kernels for x are launched: Triton takes the current device."""
    # in the interpreter overflow to infinity is as silent as on a GPU
    return np.errstate(all="ignore") if interpreted() else torch.cuda.device_of(x)


def _power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
