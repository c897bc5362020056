"""Shifted ReLU, plain and clipped, and weights that keep deep networks of the clipped one alive.

Source of the clipped one: arXiv:2402.16184, for networks x -> W f(x) + b of many wide layers.
`initialise` draws such a network's W and b. A decoder's blocks are none: between two of them lie a
residual sum and a norm, and their maps have no bias. Of a `Start` they take shift and clip alone.
"""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import nn

from integrand.activation import Activation, activation, derive
from integrand.errors import Error
from integrand.spec import Param, Spec

_NORMAL = NormalDist()


def shifted_relu(shift: float) -> Activation:
    """max(x - shift, 0). Source: arXiv:2310.04564."""
    return derive(
        Spec(
            name="shifted_relu",
            function="x - b if x > b else 0",
            params={"b": Param(shift, trainable=False)},
            source="arXiv:2310.04564",
        )
    )


def clipped_shifted_relu(shift: float, clip: float) -> Activation:
    """min(max(x - shift, 0), clip), the catalogue's entry at these values."""
    spec = activation("clipped_shifted_relu").spec
    values = {"t": shift, "m": clip}
    params = {n: dataclasses.replace(p, init=values[n]) for n, p in spec.params.items()}
    return derive(dataclasses.replace(spec, params=params))


def second_moment(variance: float, shift: float, clip: float) -> float:
    """E f(z)^2 for z of N(0, variance) and f = min(max(z - shift, 0), clip), in closed form."""
    s = math.sqrt(variance)
    a, b = shift / s, (shift + clip) / s
    inside = (variance + shift**2) * (_NORMAL.cdf(b) - _NORMAL.cdf(a))
    inside += s * ((2 * shift - s * a) * -_NORMAL.pdf(a) + (s * b - 2 * shift) * -_NORMAL.pdf(b))
    return inside + clip**2 * _NORMAL.cdf(-b)


class Start(NamedTuple):
    """Where a wide random network with clipped shifted ReLU neither explodes nor dies out.

    Attributes:
        shift, clip: of the activation.
        weight_variance: of an entry of W, times the number of inputs.
        bias_variance: of an entry of b.
        variance: q*, of the values before the activation, the same in every layer.
        sparsity: the share of zeros among its values.
        slope: V'(q*), below 1: how much of a deviation from q* is left one layer later.
    """

    shift: float
    clip: float
    weight_variance: float
    bias_variance: float
    variance: float
    sparsity: float
    slope: float

    def map(self, variance: float) -> float:
        """V: the variance of the next layer's values before the activation."""
        moment = second_moment(variance, self.shift, self.clip)
        return self.weight_variance * moment + self.bias_variance


def stable_start(sparsity: float, slope: float = 0.5, variance: float = 1.0) -> Start:
    """The start with that share of zeros, on the edge of chaos, stable with V'(q*) = slope.

    With s = sqrt(q*): shift = s Phi^-1(sparsity). The edge of chaos, weight_variance * E f'(z)^2 =
    1, keeps gradients and distances; V(q*) = q* gives bias_variance. Integration by parts gives

        V'(q*) = 1 - weight_variance * clip * pdf_{q*}(shift + clip)

    so that the clip sets the slope; without a clip the slope is 1 and V is convex: any deviation
    upwards grows, which is the published instability of shifted ReLU.

    Raises:
        Error: no such start: the variance of the biases would be negative.
    """
    if not (0 < sparsity < 1 and 0 < slope < 1 and 0 < variance < math.inf):
        raise Error(
            "a stable start needs a sparsity and a slope between 0 and 1 and a variance above 0,"
            f" got {sparsity}, {slope} and {variance}"
        )
    s = math.sqrt(variance)
    shift = s * _NORMAL.inv_cdf(sparsity)

    def weight(clip: float) -> float:
        a, b = shift / s, (shift + clip) / s
        return 1 / (_NORMAL.cdf(-a) - _NORMAL.cdf(-b))

    def slope_at(clip: float) -> float:
        return 1 - weight(clip) * clip / s * _NORMAL.pdf((shift + clip) / s)

    low, high = 0.0, 12 * s + abs(shift)  # there the slope is 0 or less, and 1 in fp64
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope_at(middle) < slope else (low, middle)
    clip = high
    bias = variance - weight(clip) * second_moment(variance, shift, clip)
    if bias < 0:
        raise Error(
            f"{sparsity:.0%} zeros with slope {slope} need biases of variance {bias:.3g}, which is"
            " below 0; ask for more zeros or a smaller slope"
        )
    return Start(shift, clip, weight(clip), bias, variance, sparsity, slope_at(clip))


def initialise(layer: nn.Linear, start: Start, generator: torch.Generator | None = None) -> None:
    """Draw the weights and biases of `layer` for `start`.

    Raises:
        Error: the layer has no bias, and the start needs one.
    """
    if layer.bias is None and start.bias_variance > 0:
        raise Error("a stable start draws biases, got a layer without; make it with bias=True")
    deviation = math.sqrt(start.weight_variance / layer.in_features)
    nn.init.normal_(layer.weight, 0, deviation, generator)
    if layer.bias is not None:
        nn.init.normal_(layer.bias, 0, math.sqrt(start.bias_variance), generator)
