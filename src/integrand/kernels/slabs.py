"""Parameters per expert, or of any shape that x broadcasts over: one kernel call per slab of x.

A kernel takes parameters of one element or of one per channel (the last dim of x). A parameter
that varies along leading dims, (E, 1, 1) for x of (E, T, C), is such a parameter in each slab x[e].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def fits(shape: Sequence[int], x_shape: Sequence[int]) -> bool:
    """Whether a parameter of several elements broadcasts against x without enlarging it."""
    return len(shape) <= len(x_shape) and all(
        size in (1, full) for size, full in zip(reversed(shape), reversed(x_shape), strict=False)
    )


def leading(x: Tensor, params: Sequence[Tensor]) -> int:
    """Number of leading dims of x along which parameters vary."""
    varying = (
        x.ndim - p.ndim + dim + 1
        for p in params
        if p.numel() != 1
        for dim in range(p.ndim - 1)
        if p.shape[dim] != 1
    )
    return max(varying, default=0)


def forward(kernel: Any, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """f(x) by the kernel, slab for slab where parameters vary along leading dims."""
    if _whole(kernel, params):
        return kernel.forward(x, list(params))
    dims = leading(x, params)
    x = x.contiguous()
    if dims == 0:
        return kernel.forward(x, [_channels(p) for p in params])
    out = torch.empty_like(x)
    for x_i, out_i, values in zip(
        _slabs(x, dims), _slabs(out, dims), _slices(x, params, dims), strict=True
    ):
        kernel.forward(x_i, values, out=out_i)
    return out


def backward(
    kernel: Any, x: Tensor, dout: Tensor, params: Sequence[Tensor], need_params: bool
) -> tuple[Tensor, list[Tensor]]:
    """(dx, parameter gradients) as the kernel's, slab for slab; sums over slabs are in order."""
    if _whole(kernel, params):
        return kernel.backward(x, dout, list(params), need_params)
    dims = leading(x, params)
    x, dout = x.contiguous(), dout.contiguous()
    if dims == 0:
        dx, dparams = kernel.backward(x, dout, [_channels(p) for p in params], need_params)
        dparams = dparams if need_params else []
        return dx, [g.reshape(p.shape) for g, p in zip(dparams, params, strict=False)]
    dx = torch.empty_like(x)
    sums = [_Sum(p, x, dims) for p in params] if need_params else []
    for i, (x_i, dout_i, dx_i, values) in enumerate(
        zip(
            *(_slabs(t, dims) for t in (x, dout, dx)),
            _slices(x, params, dims),
            strict=True,
        )
    ):
        _, dparams = kernel.backward(x_i, dout_i, values, need_params, dx=dx_i)
        for total, g in zip(sums, dparams, strict=False):
            total.add(i, g)
    return dx, [total.value() for total in sums]


def _whole(kernel: Any, params: Sequence[Tensor]) -> bool:
    """Whether one call does all of x: a kernel that `broadcasts` takes parameters of any shape."""
    return getattr(kernel, "broadcasts", False) or all(p.numel() == 1 for p in params)


def _channels(p: Tensor) -> Tensor:
    """A parameter that varies along the last dim alone, or not at all, with one dim."""
    return p if p.ndim == 1 else p.reshape(-1)


def _slabs(x: Tensor, dims: int) -> tuple[Tensor, ...]:
    return x.reshape(math.prod(x.shape[:dims]), *x.shape[dims:]).unbind()


def _slices(x: Tensor, params: Sequence[Tensor], dims: int) -> list[list[Tensor]]:
    """Per slab the parameters' values in it."""
    columns = []
    for p in params:
        lead, width = _lead(p, x, dims)
        # a copy of expanded values is small: slabs times one value or one row
        table = p.detach().reshape(*lead, width).expand(*x.shape[:dims], width)
        columns.append(table.reshape(-1, width).unbind())
    return [list(row) for row in zip(*columns, strict=True)]


def _lead(p: Tensor, x: Tensor, dims: int) -> tuple[list[int], int]:
    """The leading dims of a parameter, 1 where it has none, and its values per slab."""
    if p.numel() == 1:
        return [1] * dims, 1
    padded = [1] * (x.ndim - p.ndim) + list(p.shape)
    return padded[:dims], padded[-1]


class _Sum:
    """The gradient of a parameter over the slabs that share its values, in fp64."""

    def __init__(self, param: Tensor, x: Tensor, dims: int) -> None:
        lead, width = _lead(param, x, dims)
        self.param = param
        self.total = torch.zeros(math.prod(lead), width, dtype=torch.float64)
        rows = torch.arange(len(self.total)).reshape(lead).expand(x.shape[:dims])
        self.rows = rows.reshape(-1).tolist()

    def add(self, slab: int, gradient: Tensor) -> None:
        self.total[self.rows[slab]] += gradient

    def value(self) -> Tensor:
        return self.total.reshape(self.param.shape).to(self.param.dtype)
