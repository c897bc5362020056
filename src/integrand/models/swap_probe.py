"""What a callable computes, measured: is it pointwise, and is it the same function as another?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# bf16 numbers of both signs from 2^-6 to 2^5: where activations bend, and far enough for
# the clipped ones to differ. Nearer to 0, transformers' xIELU is a constant (its eps)
_MAGNITUDES = torch.arange(0x3C80, 0x4200, 8, dtype=torch.int32).to(torch.int16)


def probe_points() -> Tensor:
    """The points at which functions are compared, in fp64."""
    magnitudes = _MAGNITUDES.view(torch.bfloat16).double()
    return torch.cat([-magnitudes.flip(0), magnitudes])


def measured_copy(activation: Any) -> Callable[[Tensor], Tensor]:
    """A copy in fp64 on the CPU that measurements cannot leave traces in; functions as they are.

    Raises:
        ValueError: it holds tensors without data.
    """
    activation = getattr(activation, "_orig_mod", activation)  # of torch.compile
    if not isinstance(activation, nn.Module):
        return activation
    tensors = [*activation.parameters(), *activation.buffers()]
    if any(t.is_meta for t in tensors):
        raise ValueError("its parameters are on the meta device and have no numbers")
    copied = copy.deepcopy(activation)
    copied._forward_hooks.clear()
    copied._forward_pre_hooks.clear()
    return copied.cpu().double()


def why_not_pointwise(activation: Any) -> str | None:
    """None for y_i = f(x_i), the same f for every element; else the reason.

    Measured: the shape stays, two calls agree, a permutation of the elements permutes the results,
    and a changed element changes no other result.
    """
    if getattr(type(activation), "is_integrand_activation", False):
        return None
    try:
        f = measured_copy(activation)
        x = probe_points()[2:].reshape(2, -1, 5)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return _compare(f, x)
    except Exception as error:  # whatever a stranger's forward raises is an answer
        text = str(error).strip().splitlines()
        return f"it cannot be measured ({type(error).__name__}: {text[0] if text else ''})"


def _compare(f: Callable[[Tensor], Tensor], x: Tensor) -> str | None:
    y = f(x.clone())
    if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point():
        return "it does not map a tensor to a tensor of the same shape"
    if not _equal(f(x.clone()), y):
        return "two calls on the same input differ"
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))
    if not _equal(f(x.flatten()[order].reshape(x.shape)), y.flatten()[order].reshape(x.shape)):
        return "its result depends on an element's position"
    changed = x.clone()
    changed[0, 0, 0] = 3.0
    if not _equal(f(changed).flatten()[1:], y.flatten()[1:]):
        return "an element's result depends on other elements"
    return None


def _equal(a: Tensor, b: Tensor) -> bool:
    # vector loops and their scalar tails may round differently
    return torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-6, equal_nan=True)


def is_affine(activation: Any) -> bool:
    """Whether f(x) = a x + b on the probe in evaluation mode, as dropout and scales are."""
    x = probe_points()
    with torch.no_grad():
        f = measured_copy(activation)
        y = (f.eval() if isinstance(f, nn.Module) else f)(x.clone()).double()
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    return _equal(y, y[0] + slope * (x - x[0]))


def same_function(old: Any, new: nn.Module) -> bool:
    """Whether two pointwise functions agree on the probe within fp64 rounding of their formulas.

    1e-7 of max(|f|, |x|): formulas written with ten digits of sqrt(2/pi) pass, erf against tanh
    GELU (5e-4) does not.
    """
    x = probe_points()
    with torch.no_grad():
        try:
            a, b = (measured_copy(f)(x.clone()).double() for f in (old, new))
        except (ValueError, RuntimeError):
            return False
    bound = 1e-7 * torch.maximum(b.abs(), x.abs())
    return bool(((a - b).abs() <= bound).all())
