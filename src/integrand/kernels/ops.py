"""The C kernels as registered operators, for use inside `torch.compile`.

`integrand::forward(x, params, key)` and `integrand::backward(x, dout, params, key)`; the key is the
digest of a program registered in this process (compiled graphs outlive processes in their cache).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program

_PROGRAMS: dict[str, Program] = {}


def register(program: Program) -> None:
    """Make a program known to the operators; outside of tracing, when it is loaded."""
    _PROGRAMS[program.digest] = program


@functools.cache
def kernel(key: str, dtype: torch.dtype) -> Any:
    """The loaded C kernel of a registered program."""
    from integrand.kernels import c

    return c.load(_PROGRAMS[key], dtype)


@torch.library.custom_op("integrand::forward", mutates_args=())
def forward(x: Tensor, params: list[Tensor], key: str) -> Tensor:
    """f(x) by the C kernel."""
    return kernel(key, x.dtype).forward(x, params)


@forward.register_fake
def _(x: Tensor, params: list[Tensor], key: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("integrand::backward", mutates_args=())
def backward(x: Tensor, dout: Tensor, params: list[Tensor], key: str) -> list[Tensor]:
    """[dx, *dparams] by the C kernel."""
    dx, dparams = kernel(key, x.dtype).backward(x, dout, params)
    return [dx, *dparams]


@backward.register_fake
def _(x: Tensor, dout: Tensor, params: list[Tensor], key: str) -> list[Tensor]:
    return [torch.empty_like(x), *(torch.empty_like(p) for p in params)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, params, key = inputs
    ctx.key = key
    ctx.save_for_backward(x, *params)


def _gradient(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    x, *params = ctx.saved_tensors
    dx, *dparams = torch.ops.integrand.backward(x, dout, params, ctx.key)
    return dx, dparams, None


forward.register_autograd(_gradient, setup_context=_setup)


def apply(program: Program, x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """f(x) through the registered operator."""
    return torch.ops.integrand.forward(x, list(params), program.digest)
