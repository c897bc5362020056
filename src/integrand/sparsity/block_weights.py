"""The matrices of a block as kernels read them, and for which inputs skipping a row is exact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from integrand.kernels.triton import available
from integrand.sparsity import row_skip, triton_skip
from integrand.sparsity.feed_forward import FeedForward, Matrix
from integrand.sparsity.layout import laid, lay


class Weights(NamedTuple):
    """The matrices as they are now; skipping is sound for max |x| up to `limit`."""

    key: tuple[Any, ...]
    gate: Matrix | None
    up: Matrix
    down: Matrix
    limit: float
    dtype: torch.dtype | None  # None where the kernels cannot take them


def is_plain(module: nn.Module) -> bool:
    """Whether a map is its weight and bias and nothing else: no parametrisation."""
    held = module._parameters
    if type(held.get("weight")) is not nn.Parameter:
        return False
    bias = held.get("bias", module)
    return bias is None or type(bias) is nn.Parameter


def is_untouched(module: nn.Module) -> bool:
    """Whether a call runs the forward function of its class and nothing else: no hook, no patch."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def tensors(maps: Iterable[nn.Module]) -> list[Tensor]:
    """Weights and biases of plain maps, past Module.__getattr__: asked for at every call."""
    held = [m._parameters for m in maps]
    return [t for h in held for t in (h["weight"], h["bias"]) if t is not None]


def key(tensors: list[Tensor]) -> tuple[Any, ...]:
    """Changes where a parameter is replaced, moved or written to, other than through `.data`.

    A tensor made in inference mode counts no writes.
    """
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def look(block: FeedForward, found: list[Tensor], impl: str) -> Weights:
    """The matrices, laid anew if need be; `found` are their `tensors`."""
    if not laid(block):
        lay(block)
    gate, up, down = (
        m and Matrix(m.weight.detach(), None if m.bias is None else m.bias.detach())
        for m in block.matrices()
    )
    assert up is not None and down is not None
    kinds = {(t.dtype, t.device) for t in found}
    dtype, device = kinds.pop()
    # kernels read a bias as one stretch of memory; a copy would not follow what is written to it
    whole = all(t.is_contiguous() for t in found if t.ndim == 1)
    if kinds or not whole or not _fits(dtype, device, impl):
        return Weights(key(found), None, up, down, math.nan, None)
    return Weights(key(found), gate, up, down, _limit(block, up, down, impl), dtype)


def _fits(dtype: torch.dtype, device: torch.device, impl: str) -> bool:
    if impl == "triton":
        return dtype in triton_skip.DTYPES and available(device) is None
    return dtype in row_skip.DTYPES and device.type == "cpu"


def _limit(block: FeedForward, up: Matrix, down: Matrix, impl: str) -> float:
    """The largest |x| for which 0 times what a skipped row gives is 0; NaN where there is none.

    |up x + b| <= |x| max_i ||up_i||_1 + |b|. A plain block computes all its rows up.
    """
    norm = row_skip.norm if impl == "c" else _norm
    if not math.isfinite(norm(down.weight.t())):
        return math.nan
    if block.form == "plain":
        return math.inf
    top = torch.finfo(up.weight.dtype).max / 2
    if block.form == "both":
        # dReLU has act(up x) there, largest at an end and no faster than a square (`vetting`)
        top = math.sqrt(top)
        with torch.no_grad():
            if not bool(block.act(torch.tensor([-top, top]).to(up.weight)).isfinite().all()):
                return math.nan
    most = 0.0 if up.bias is None else float(up.bias.abs().max())
    largest = norm(up.weight)
    return (top - most) / largest if largest else math.inf


def _norm(weight: Tensor) -> float:
    return float(torch.linalg.vector_norm(weight, 1, dim=1, dtype=torch.float32).max())
