"""How far the hidden activation stands out, and what low precision makes of it.

Quadratic growth is said to bring outliers that break fp8 training (arXiv:2605.25704; the fp8 run
of Apertus diverged, arXiv:2509.14233): these are the numbers to hold against that.
"""

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
def outliers(model: nn.Module, tokens_BT: Tensor) -> dict[str, list[float]]:
    """By layer in order of depth, of the hidden activation h that enters down_proj.

    `kurtosis` (of all elements together; 3 for normal ones), `max` of abs(h), `max_over_rms`, and
    the relative error of the product with down_proj, norm(W q(h) - W h) / norm(W h), where q is
    `fp8` or `mxfp8`.
    """
    found: dict[str, list[float]] = {}

    def look(down: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        h = inputs[0].float()
        weight = cast(Tensor, down.weight).float()
        product = nn.functional.linear(h, weight)
        away = h - h.mean()
        rms = h.square().mean().sqrt()
        row = {
            "kurtosis": away.pow(4).mean() / away.square().mean().square(),
            "max": h.abs().amax(),
            "max_over_rms": h.abs().amax() / rms,
        }
        for name, quantised in (("fp8_error", fp8), ("mxfp8_error", mxfp8)):
            error = nn.functional.linear(quantised(h) - h, weight)
            row[name] = error.norm() / product.norm()
        for name, value in row.items():
            found.setdefault(name, []).append(float(value))

    downs = [m for name, m in model.named_modules() if name.endswith("down_proj")]
    hooks = [down.register_forward_pre_hook(look) for down in downs]
    was_training = model.training
    try:
        model.eval()(tokens_BT)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return found
