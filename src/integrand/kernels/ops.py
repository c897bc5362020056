"""The kernels as registered operators: for `torch.compile` and whatever else watches operators.

`integrand::forward(x, params, key)` and `integrand::backward(x, dout, params, key, need_params)`;
the key is the digest of a program registered in this process (compiled graphs outlive processes
in their cache), for a Triton kernel with `triton:` before it. Under a transform, in forward mode
and where a gradient is differentiated again they compute by the reference, so a derivative is right
or an error, never a silent zero.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.kernels import reference, slabs
from integrand.kernels.autograd import batched, tracked

TRITON = "triton:"
_DEVICES = ("CPU", "CUDA", "XPU")
_PROGRAMS: dict[str, Program] = {}


def register(program: Program) -> None:
    """Make a program known to the operators; outside of tracing, when it is loaded."""
    _PROGRAMS[program.digest] = _PROGRAMS[TRITON + program.digest] = program


@functools.cache
def kernel(key: str, dtype: torch.dtype) -> Any:
    """The loaded C or Triton kernel of a registered program."""
    from integrand.kernels import c, triton

    return (triton if key.startswith(TRITON) else c).load(_PROGRAMS[key], dtype)


torch.library.define(
    "integrand::forward",
    "(Tensor x, Tensor[] params, str key) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "integrand::backward",
    "(Tensor x, Tensor dout, Tensor[] params, str key, bool need_params) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("integrand::forward", _DEVICES)
def _(x: Tensor, params: list[Tensor], key: str) -> Tensor:
    return slabs.forward(kernel(key, x.dtype), _dense(x), params)


@torch.library.impl("integrand::backward", _DEVICES)
def _(x: Tensor, dout: Tensor, params: list[Tensor], key: str, need_params: bool) -> list[Tensor]:
    dx, dparams = slabs.backward(kernel(key, x.dtype), _dense(x), dout, params, need_params)
    # an operator's results may not share memory, which the sums of a Triton kernel do
    return [dx, *(g.clone() if g.untyped_storage().nbytes() > g.nbytes else g for g in dparams)]


@torch.library.register_fake("integrand::forward")
def _(x: Tensor, params: list[Tensor], key: str) -> Tensor:
    return _result(x, params)


@torch.library.register_fake("integrand::backward")
def _(x: Tensor, dout: Tensor, params: list[Tensor], key: str, need_params: bool) -> list[Tensor]:
    return [_result(x, params), *(torch.empty_like(p) for p in params if need_params)]


def _dense(x: Tensor) -> Tensor:
    # a clone has the strides of empty_like, which the fake kernels promise
    return x if torch.ops.aten.is_non_overlapping_and_dense(x) else x.clone()


def _result(x: Tensor, params: list[Tensor]) -> Tensor:
    if all(p.numel() == 1 for p in params):
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: str, x: Tensor, *params: Tensor) -> Tensor:
        ctx.key = key
        ctx.save_for_backward(x, *params)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.integrand.forward(x, list(params), key)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *params = ctx.saved_tensors
        if batched(grads[0]):
            dx, dparams = reference.backward(
                _PROGRAMS[ctx.key], x, grads[0], params, ctx.needs_input_grad[2:]
            )
            return None, dx, *dparams
        need = any(ctx.needs_input_grad[2:])
        dx, *dparams = torch.ops.integrand.backward(x, grads[0], params, ctx.key, need)
        return None, dx, *(dparams or [None] * len(params))


@torch.library.impl("integrand::forward", "Autograd")
def _(x: Tensor, params: list[Tensor], key: str) -> Tensor:
    if _transformed(x, *params):
        return reference.forward(_PROGRAMS[key], x, params)
    return _Forward.apply(key, x, *params)


@torch.library.impl("integrand::backward", "Autograd")
def _(x: Tensor, dout: Tensor, params: list[Tensor], key: str, need_params: bool) -> list[Tensor]:
    if _transformed(x, dout, *params) or tracked(x, [dout, *params]):
        dx, dparams = reference.backward(
            _PROGRAMS[key], x, dout, params, [need_params] * len(params)
        )
        return [dx, *(g for g in dparams if g is not None)]
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.integrand.backward(x, dout, params, key, need_params)


def _transformed(*tensors: Tensor) -> bool:
    # asked of the tensors: a retraced graph enters forward mode behind forward_ad's back
    return torch._C._are_functorch_transforms_active() or any(
        torch._VF._unpack_dual(t, level=0).tangent is not None for t in tensors
    )


@torch.library.register_vmap("integrand::forward")  # pyrefly: ignore[not-callable]
def _(info: Any, in_dims: Any, x: Tensor, params: list[Tensor], key: str) -> tuple[Tensor, int]:
    x, rank = _batched(x, in_dims[0], info.batch_size), x.ndim - (in_dims[0] is not None)
    dims = in_dims[1] or [None] * len(params)
    values = [
        p if d is None else _aligned(p.movedim(d, 0), rank)
        for p, d in zip(params, dims, strict=True)
    ]
    return torch.ops.integrand.forward(x, values, key), 0


def _batched(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _aligned(p: Tensor, rank: int) -> Tensor:
    """A batch of parameters with its own dims along the last ones of x."""
    own = p.shape[1:]
    if p[0].numel() == 1:
        return p.reshape(-1, *[1] * rank)
    return p.reshape(p.shape[0], *[1] * (rank - len(own)), *own)


def apply(program: Program, x: Tensor, params: Sequence[Tensor], backend: str = "") -> Tensor:
    """f(x) through the registered operator; `backend` TRITON for the Triton kernel."""
    return torch.ops.integrand.forward(x, list(params), backend + program.digest)
