"""Which layers of a checkpoint hold extreme activation parameters, by rules that are stated."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.activation import Activation

# what a layer's parameter may differ from the median layer's: a factor, and robust deviations
FACTOR, DEVIATIONS, FEWEST_LAYERS = 4.0, 5.0, 4
# pre-activations up to this size should not overflow fp16
REACH = 64.0
# one step of Adam changes a parameter by about its learning rate
UPDATE, LARGE_UPDATE = 1e-4, 1e-2

RULES = {
    "far": (
        f"more than {FACTOR:g} times, and {DEVIATIONS:g} robust standard deviations (1.4826 times "
        "the median absolute deviation, on a logarithmic scale), away from the median layer"
    ),
    "overflow": f"f leaves fp16 at a pre-activation below {REACH:g} in size",
    "coarse": (
        f"the stored type is so coarse there that an update of {LARGE_UPDATE:g}, a hundred times a "
        "usual one, is rounded away"
    ),
}


def far(values: Sequence[float]) -> list[bool]:
    """Which layers' values of one parameter stand far from the others' (`RULES["far"]`).

    Compared by logarithm where all are positive, else by difference with the same factor.
    """
    if len(values) < FEWEST_LAYERS:
        return [False] * len(values)
    positive = min(values) > 0
    places = [math.log(v) for v in values] if positive else list(values)
    middle = statistics.median(places)
    spread = 1.4826 * statistics.median(abs(p - middle) for p in places)
    least = math.log(FACTOR) if positive else (FACTOR - 1) * max(abs(middle), 1e-3)
    return [abs(p - middle) > max(least, DEVIATIONS * spread) for p in places]


def fp16_reach(act: Activation, values: Mapping[str, float]) -> float:
    """The smallest |x| of fp16 whose f(x) is infinite in fp16; inf where there is none."""
    x = torch.arange(0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16).double()
    # halfway beyond the largest number, rounding to nearest gives infinity
    limit = 65520.0
    tensors: dict[str, Any] = {
        name: torch.tensor([v], dtype=torch.float64) for name, v in values.items()
    }
    over = torch.zeros(x.shape, dtype=torch.bool)
    with torch.no_grad():
        for side in (x, -x):
            over |= act(side, impl="reference", **tensors).abs() >= limit
    return float(x[over][0]) if bool(over.any()) else math.inf


def step(raw: Tensor) -> float:
    """The distance from a stored number to the next larger one of its type, in size."""
    if raw.element_size() == 1:
        # fp8 has no nextafter: without the sign, its bits are in the order of its sizes
        bits = (raw.detach().flatten().view(torch.uint8) & 0x7F).max()
        ends = torch.stack([bits, bits + 1]).view(raw.dtype).double().tolist()
        return ends[1] - ends[0] if math.isfinite(ends[1]) else math.inf
    magnitude = raw.detach().abs().max()
    end = torch.full_like(magnitude, math.inf)
    return (torch.nextafter(magnitude, end).double() - magnitude.double()).item()
