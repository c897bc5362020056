"""Initial weights that keep the variance of pre-activations, for any activation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from integrand.errors import Error


def initialise(
    layers: Iterable[nn.Linear],
    act: Any,
    *,
    input_square: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Fill a stack x -> layer, act, layer, act, ... so that pre-activations keep their variance.

    Weights N(0, C_W / fan_in), biases N(0, C_b): the critical values of the activation where it has
    some (`act.properties.criticality`; without an own scale, at variance 1), else C_W = 1 / E f^2
    at variance 1, which keeps that variance but not small differences. The first layer sees inputs
    whose squares have the mean `input_square` and brings them to the same variance.

    Returns:
        (C_W, C_b) of the layers after the first.

    Raises:
        Error: f is 0 under N(0, 1), or a bias is needed and a layer has none.
    """
    if not hasattr(act, "properties"):
        raise Error(
            f"initialise takes a derived activation, got {act!r}; ig.activation(NAME) is one"
        )
    found = act.properties.criticality
    variance = found.variance or 1.0
    weight, bias = found.weight, found.bias or 0.0
    if weight is None:
        second = act.properties.second_moment
        if not 0 < second < math.inf:
            raise Error(f"E f^2 of '{act.name}' under N(0, 1) must be finite and above 0 to scale")
        weight = 1 / second
    with torch.no_grad():
        for place, layer in enumerate(layers):
            if bias and layer.bias is None:
                raise Error(
                    f"'{act.name}' is critical with biases of variance {bias:.3g} alone, and layer "
                    f"{place} has none; build it with bias=True"
                )
            scale = weight if place else (variance - bias) / input_square
            std = math.sqrt(scale / layer.in_features)
            layer.weight.normal_(0, std, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0, math.sqrt(bias), generator=generator)
    return weight, bias
