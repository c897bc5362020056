"""The reference: the scalar program interpreted with plain torch operations.

Traceable, on any device, with a backward of its own that keeps x and the parameters alone. It
defines what every other implementation must compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program, evaluate
from integrand.derivation.table import Table


class TorchOps:
    """The namespace of `program.evaluate` over tensors of one floating type."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self.bits = 64 if dtype == torch.float64 else 32

    def const(self, decimal: str) -> float:
        return float(decimal)

    def tensor(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        return torch.full((), value, dtype=self.dtype, device=self.device)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):
            return a if condition else b
        return torch.where(condition, self.tensor(a), self.tensor(b))

    def minimum(self, a: Any, b: Any) -> Tensor:
        return torch.minimum(self.tensor(a), self.tensor(b))

    def maximum(self, a: Any, b: Any) -> Tensor:
        return torch.maximum(self.tensor(a), self.tensor(b))

    def pow(self, a: Any, b: Any) -> Tensor:
        return torch.pow(self.tensor(a), b)

    def exp(self, x: Any) -> Tensor:
        return torch.exp(self.tensor(x))

    def log(self, x: Any) -> Tensor:
        return torch.log(self.tensor(x))

    def sqrt(self, x: Any) -> Tensor:
        return torch.sqrt(self.tensor(x))

    def abs(self, x: Any) -> Tensor:
        return torch.abs(self.tensor(x))

    def rint(self, x: Any) -> Tensor:
        return torch.round(self.tensor(x))

    def octave(self, x: Any, k: int) -> tuple[Tensor, Tensor]:
        n = torch.round(self.tensor(x) * 1.4426950408889634)
        return n, torch.exp2(n - k)

    def sin(self, x: Any) -> Tensor:
        return torch.sin(self.tensor(x))

    def cos(self, x: Any) -> Tensor:
        return torch.cos(self.tensor(x))

    def isnan(self, x: Any) -> Tensor:
        return torch.isnan(self.tensor(x))

    def isinf(self, x: Any) -> Tensor:
        return torch.isinf(self.tensor(x))

    def table(self, table: Table, u: Any) -> Tensor:
        """The table at u, each of its three zones on arguments clamped into it."""
        u = self.tensor(u)
        data = _tensors(table, self.dtype, u.device)
        low, high = 2.0**table.lo, 2.0**table.hi
        a = torch.where(u < 0, -u, u)
        side = (u > 0).long()
        near, far, infinite = a < low, a >= high, torch.isinf(a)
        s = torch.where(near, a, low)
        value = torch.where(near, u, 0.0) * _horner(data["near"], side, s / low)
        segment = _segment(table, a.detach())
        segment = segment + side * ((table.hi - table.lo) << table.split)
        middle = torch.where(near | far, low, a)
        t = middle * data["scale"][segment] - data["offset"][segment]
        value = torch.where(near, value, _horner(data["middle"], segment, t))
        # at an infinity the sign of the growth is read off a far finite point
        v = torch.where(far, torch.where(infinite, 2.0**60, a), high)
        w = torch.where(u < 0, -v, v)
        a2, a1, log_rate, entropy = (data["growth"][k][side] for k in range(4))
        log_v = torch.log(v)
        tail = (a2 * w + a1 + entropy * log_v) * w + log_rate * log_v
        tail = tail + _horner(data["far"], side, high / v)
        limit = torch.where(
            (data["growth"] != 0).any(0)[side],
            torch.copysign(self.tensor(torch.inf), tail),
            data["far"][0][side],
        )
        return torch.where(far, torch.where(infinite, limit, tail), value)


def _segment(table: Table, a: Tensor) -> Tensor:
    """Number of the segment of |u|: exponent and leading mantissa bits, read off the bits."""
    last = ((table.hi - table.lo) << table.split) - 1
    if torch.jit.is_tracing():  # cannot record a view as another type
        part, exponent = torch.frexp(a)
        number = (exponent - 1 - table.lo + 2 * part - 1) * 2.0**table.split
        return number.floor().nan_to_num().clamp(0, last).long()
    if a.dtype == torch.float64:
        bits, mantissa, bias = a.view(torch.int64), 52, 1023
    else:
        bits, mantissa, bias = a.view(torch.int32), 23, 127
    number = (bits >> (mantissa - table.split)) - ((bias + table.lo) << table.split)
    return number.clamp(0, last).long()


def _horner(coefficients: Tensor, index: Tensor, t: Tensor) -> Tensor:
    """Polynomials with ascending coefficients along dim 0, one per index."""
    result = coefficients[-1][index]
    for c in coefficients.flip(0)[1:]:
        result = result * t + c[index]
    return result


_TENSORS: dict[tuple[Table, torch.dtype, torch.device], dict[str, Tensor]] = {}


def _tensors(table: Table, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    key = (table, dtype, device)
    if key not in _TENSORS:
        _TENSORS[key] = {k: v.to(device, dtype) for k, v in _columns(table).items()}
    return _TENSORS[key]


def _columns(table: Table) -> dict[str, Tensor]:
    count = 1 << table.split
    octaves = range(table.lo, table.hi)
    scale = [2.0 ** (table.split + 1 - e) for e in octaves for _ in range(count)]
    offset = [2.0 * (count + k) + 1.0 for _ in octaves for k in range(count)]
    return {
        "near": _padded(table.near),
        "middle": _padded([row for side in table.middle for row in side]),
        "far": _padded(table.far),
        "growth": torch.tensor(table.growth, dtype=torch.float64).T.contiguous(),
        "scale": torch.tensor(scale * 2, dtype=torch.float64),
        "offset": torch.tensor(offset * 2, dtype=torch.float64),
    }


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    width = max(map(len, rows))
    full = [list(row) + [0.0] * (width - len(row)) for row in rows]
    return torch.tensor(full, dtype=torch.float64).T.contiguous()


def compute_dtype(program: Program, storage: torch.dtype) -> torch.dtype:
    """fp64 for fp64 storage and for wide programs, else fp32."""
    return torch.float64 if program.wide or storage == torch.float64 else torch.float32


def run(program: Program, x: Tensor, params: Sequence[Tensor], outputs: Iterable[str]) -> list[Any]:
    """The outputs of a program in the compute type, before rounding to storage."""
    dtype = compute_dtype(program, x.dtype)
    o = TorchOps(dtype, x.device)
    # single values without a dim of their own: x may have none
    values = {
        name: (p.reshape(()) if p.numel() == 1 else p).to(dtype)
        for name, p in zip(program.params, params, strict=True)
    }
    return evaluate(program, o, x.to(dtype), values, outputs)


def forward(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """f(x) in the type of x."""
    (y,) = run(program, x, params, ["f"])
    return _like(y, x).to(x.dtype)


def backward(
    program: Program, x: Tensor, dout: Tensor, params: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """dx in the type of x, and per parameter the sum of dout * partial over what shares it."""
    dtype = compute_dtype(program, x.dtype)
    wanted = [name for name, need in zip(program.params, needed, strict=True) if need]
    slope, *partials = run(program, x, params, ["df", *(f"d_{name}" for name in wanted)])
    g = dout.to(dtype)
    dx = (g * slope).to(x.dtype)
    sums = {
        name: _sum_to(g * _like(partial, x), dict(zip(program.params, params, strict=True))[name])
        for name, partial in zip(wanted, partials, strict=True)
    }
    return _like(dx, x), [sums.get(name) for name in program.params]


def tangent(
    program: Program,
    x: Tensor,
    params: Sequence[Tensor],
    dx: Tensor | None,
    dparams: Sequence[Tensor | None],
) -> Tensor:
    """The derivative of f along dx and dparams (None: zero), in the type of x."""
    steps = {"df": dx, **{f"d_{n}": d for n, d in zip(program.params, dparams, strict=True)}}
    moving = {name: d for name, d in steps.items() if d is not None}
    slopes = run(program, x, params, moving)
    total = torch.zeros((), device=x.device)
    for slope, d in zip(slopes, moving.values(), strict=True):
        total = total + slope * (d if d is dx or d.numel() != 1 else d.reshape(()))
    return _like(total, x).to(x.dtype)


def _like(value: Any, x: Tensor) -> Tensor:
    """A result that does not depend on x still has its shape."""
    if isinstance(value, Tensor) and value.shape == x.shape:
        # an autograd function may not return its own input
        return value.clone() if value is x else value
    return torch.as_tensor(value, device=x.device).expand(x.shape).clone()


def _sum_to(terms: Tensor, param: Tensor) -> Tensor:
    if param.numel() == 1:
        return terms.sum().reshape(param.shape).to(param.dtype)
    return terms.sum_to_size(param.shape).to(param.dtype)
