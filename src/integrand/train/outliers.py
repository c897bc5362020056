"""How far the hidden activation stands out, and what low precision makes of it.

Quadratic growth is said to bring outliers that break fp8 training (arXiv:2605.25704; the fp8 run
of Apertus diverged, arXiv:2509.14233): these are the numbers to hold against that.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

LARGEST = 448.0  # of e4m3
BLOCK = 32


def fp8(x: Tensor) -> Tensor:
    """x rounded to e4m3 with one scale, the largest value mapped to 448; fp32."""
    # of zeros alone: finite
    scale = LARGEST / x.abs().amax().clamp_min(2.0**-100)
    return (x * scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float() / scale


def mxfp8(x: Tensor) -> Tensor:
    """x rounded to MXFP8: e4m3, every 32 of the last dimension with a scale of their own.

    The scale is 2^(floor(log2 amax) - 8); values beyond 448 times the scale saturate. Source: OCP
    Microscaling Formats 1.0, sections 5.2 and 6.3.
    """
    width = x.shape[-1]
    blocks = nn.functional.pad(x.float(), (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK))
    # frexp gives amax = m 2^e with 1/2 <= m < 1, so that floor(log2 amax) = e - 1, exactly
    exponent = (blocks.abs().amax(-1, keepdim=True).frexp().exponent - 1 - 8).clamp(-127, 127)
    scaled = torch.ldexp(blocks, -exponent).clamp(-LARGEST, LARGEST)
    rounded = torch.ldexp(scaled.to(torch.float8_e4m3fn).float(), exponent)
    return rounded.flatten(-2)[..., :width]


@torch.no_grad()
def outliers(
    model: nn.Module,
    calls: Iterable[tuple[Tensor, ...]],
    autocast: AbstractContextManager[object] | None = None,
) -> dict[str, list[float]]:
    """By layer in order of depth, of the hidden activation h that enters down_proj in all `calls`.

    `kurtosis` (of all elements together; 3 for normal ones), `max` of abs(h), `max_over_rms`, the
    relative error of the product with down_proj, norm(W q(h) - W h) / norm(W h), where q is
    `fp8`, with a scale for each call, or `mxfp8`, and `elements`, how many h has. The model runs
    under `autocast`, what is measured of h is computed in fp32.
    """
    downs = [m for name, m in model.named_modules() if name.endswith("down_proj")]
    layers = {down: _Layer() for down in downs}
    hooks = [
        down.register_forward_pre_hook(lambda module, given: layers[module].add(module, given[0]))
        for down in downs
    ]
    was_training = model.training
    model.eval()
    try:
        for call in calls:
            with autocast or nullcontext():
                model(*call)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    rows = [layer.row() for layer in layers.values()]
    return {name: [row[name] for row in rows] for name in rows[0]}


class _Layer:
    """Sums over the calls: powers of h less `centre`, squared norms of products and errors."""

    def __init__(self) -> None:
        self.centre = self.largest = 0.0
        self.count = 0
        self.sums = [0.0] * 7

    def add(self, down: nn.Module, h: Tensor) -> None:
        with torch.autocast(h.device.type, enabled=False):
            h, weight = h.float(), cast(Tensor, down.weight).float()
            if not self.count:  # near the mean: fp32 sums of powers then lose nothing
                self.centre = float(h.mean())
            away = h - self.centre
            errors = [nn.functional.linear(q(h) - h, weight) for q in (fp8, mxfp8)]
            squared = [nn.functional.linear(h, weight), *errors]
            found = [h.abs().amax(), *(away.pow(k).sum() for k in range(1, 5))]
            largest, *sums = torch.stack(found + [x.square().sum() for x in squared]).tolist()
        self.largest = max(self.largest, largest)
        self.count += h.numel()
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)]

    def row(self) -> dict[str, float]:
        m1, m2, m3, m4 = (total / self.count for total in self.sums[:4])
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        product, *errors = self.sums[4:]
        mean_square = variance + (self.centre + m1) ** 2
        return {
            "kurtosis": _ratio(fourth, variance**2),
            "max": self.largest,
            "max_over_rms": _ratio(self.largest, math.sqrt(mean_square)),
            "fp8_error": math.sqrt(_ratio(errors[0], product)),
            "mxfp8_error": math.sqrt(_ratio(errors[1], product)),
            "elements": self.count,
        }


def _ratio(above: float, below: float) -> float:
    """NaN over zero, as tensors give it."""
    return above / below if below else math.nan
