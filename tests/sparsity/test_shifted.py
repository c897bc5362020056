import math

import numpy as np
import pytest
import torch
from torch import nn

from integrand.errors import Error
from integrand.sparsity.shifted import (
    clipped_shifted_relu,
    initialise,
    second_moment,
    shifted_relu,
    stable_start,
)

CASES = [(0.5, 0.3), (0.7, 0.5), (0.85, 0.5), (0.9, 0.9), (0.95, 0.5)]


def quadrature(variance: float, shift: float, clip: float) -> float:
    """E f(z)^2 by Gauss-Legendre on each piece."""
    s = math.sqrt(variance)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    total = 0.0
    for a, b in ((shift, shift + clip), (shift + clip, shift + clip + 12 * s)):
        z = (a + b) / 2 + (b - a) / 2 * nodes
        density = np.exp(-z * z / (2 * variance)) / (s * math.sqrt(2 * math.pi))
        f = np.minimum(np.maximum(z - shift, 0), clip)
        total += (b - a) / 2 * float((weights * f * f * density).sum())
    return total


@pytest.mark.parametrize("variance", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(("shift", "clip"), [(1.0, 1.0), (0.3, 4.0), (-0.5, 0.2), (2.0, 0.5)])
def test_the_closed_form_is_the_integral(variance: float, shift: float, clip: float) -> None:
    # its largest term is below (variance + shift^2): what cancels is relative to that
    bound = 64 * 2.0**-52 * (variance + shift * shift + clip * clip)
    found = second_moment(variance, shift, clip)
    assert abs(found - quadrature(variance, shift, clip)) <= bound


@pytest.mark.parametrize(("sparsity", "slope"), CASES)
@pytest.mark.parametrize("variance", [0.3, 1.0])
def test_the_fixed_point_attracts(sparsity: float, slope: float, variance: float) -> None:
    start = stable_start(sparsity, slope, variance)
    assert start.map(variance) == pytest.approx(variance, rel=1e-12)
    h = 1e-4 * variance
    measured = (start.map(variance + h) - start.map(variance - h)) / (2 * h)
    # central differences: h^2 V''' / 6, and the rounding of V over h
    assert measured == pytest.approx(slope, abs=1e-6)
    assert start.slope == pytest.approx(slope, abs=1e-12)
    # the edge of chaos: weight_variance * P(shift < z < shift + clip) = 1
    z = np.random.default_rng(0).normal(0, math.sqrt(variance), 1_000_000)
    inside = np.mean((z > start.shift) & (z < start.shift + start.clip))
    share = 1 / start.weight_variance
    assert abs(inside - share) < 5 * math.sqrt(share / 1e6)
    assert abs(np.mean(z <= start.shift) - sparsity) < 5 * math.sqrt(sparsity / 1e6)
    for away in (0.8, 1.2):
        q = away * variance
        for _ in range(400):
            q = start.map(q)
        assert q == pytest.approx(variance, rel=1e-9)


def test_without_a_clip_the_variance_runs_away() -> None:
    """The published instability: V' = 1 and V'' > 0 at the edge of chaos of shifted ReLU."""
    start = stable_start(0.85, 0.5)
    far = start._replace(clip=1e3, weight_variance=1 / 0.15)
    free = far._replace(bias_variance=1 - far.weight_variance * second_moment(1, far.shift, 1e3))
    assert free.map(1.0) == pytest.approx(1.0)
    q = 1.2
    for _ in range(400):
        q = free.map(q)
    assert q > 10


def test_a_wide_network_keeps_variance_and_sparsity() -> None:
    start, width, depth = stable_start(0.85, 0.5, 0.5), 2048, 8
    generator = torch.Generator().manual_seed(0)
    act = clipped_shifted_relu(start.shift, start.clip)
    h = torch.randn(4, width, generator=generator) * math.sqrt(1.2 * start.variance)
    moments = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        initialise(layer, start, generator)
        h = layer(act(h)).detach()
        moments.append(h.square().mean(-1) / start.variance)
    # of one row: the spread of a mean of squares, and of E f^2 over the neurons of a layer; each
    # layer adds its own and passes `slope` of it on
    f2 = act(torch.randn(100_000, generator=generator) * math.sqrt(start.variance)).square()
    passed = start.weight_variance * float(f2.std()) / start.variance
    spread = math.sqrt((2 + passed**2) / width / (1 - start.slope**2))
    assert abs(moments[0] - 1).max() > 0.05  # it started 20 % too wide
    assert abs(moments[-1] - 1).max() < 4 * spread < 0.3
    zeros = float((act(h) == 0).float().mean())
    assert zeros == pytest.approx(0.85, abs=0.02)


def test_the_shift_is_in_the_function() -> None:
    x = torch.linspace(-3, 3, 25)
    assert torch.equal(shifted_relu(0.5)(x), (x - 0.5).clamp(min=0))
    assert torch.equal(clipped_shifted_relu(0.5, 1.0)(x), (x - 0.5).clamp(0, 1))


def test_refusals() -> None:
    with pytest.raises(Error, match="between 0 and 1"):
        stable_start(1.0)
    with pytest.raises(Error, match="below 0"):
        stable_start(0.2, 0.95)
    with pytest.raises(Error, match="layer without"):
        initialise(nn.Linear(4, 4, bias=False), stable_start(0.85))
