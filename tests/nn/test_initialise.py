import math

import pytest
import torch
from torch import nn

import integrand as ig
from integrand.derivation.criticality import Kernel
from integrand.errors import Error

WIDTH, DEPTH, NETWORKS = 512, 4, 16


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "xielu", "selu", "tanh"])
def test_wide_random_networks_follow_the_recursion(name: str) -> None:
    act = ig.activation(name)
    kernel = Kernel.of(act.program, act.spec.values(), list(act.properties.breakpoints))
    generator = torch.Generator().manual_seed(0)
    seen = [[] for _ in range(DEPTH)]
    for _ in range(NETWORKS):
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
        weight, bias = ig.nn.initialise(layers, act, generator=generator)
        x = torch.randn(1, WIDTH, generator=generator)
        x = x / x.square().mean().sqrt()
        for place, layer in enumerate(layers):
            pre = layer(x)
            seen[place].append(float(pre.detach().square().mean()))
            x = act(pre)
    expected = act.properties.criticality.variance or 1.0
    for variances in seen:
        found = torch.tensor(variances, dtype=torch.float64)
        # 4 standard errors, and the finite width: relative deviations of order depth / width
        margin = 4 * float(found.std()) / math.sqrt(NETWORKS) + 4 * DEPTH / WIDTH * expected
        assert abs(float(found.mean()) - expected) <= margin
        expected = kernel.step(expected, weight, bias)


def test_a_critical_bias_needs_a_place() -> None:
    with pytest.raises(Error, match="layer 0 has none; build it with bias=True"):
        ig.nn.initialise([nn.Linear(4, 4, bias=False)], ig.activation("silu"))
