"""Against published constants, independent quadrature and random networks."""

import functools
import math

import numpy as np
import pytest
from mpmath import mp

import integrand as ig
from integrand.derivation.criticality import Kernel, criticality
from integrand.derivation.exact import exact
from integrand.derivation.gaussian import expectation

# declared as functions, so that the text itself can be integrated in multi-precision
ROWS = (
    *("relu", "leaky_relu", "elu", "selu", "celu", "silu", "mish", "gelu", "gelu_tanh", "tanh"),
    *("softsign", "sigmoid", "squareplus", "logsigmoid", "hardswish", "hardtanh", "hardmish"),
    *("relu6", "hardsigmoid", "symlog", "softshrink", "gelu_quick"),
)


@functools.cache
def kernel(name: str) -> Kernel:
    act = ig.activation(name)
    return Kernel.of(act.program, act.spec.values(), list(act.properties.breakpoints))


@pytest.mark.parametrize(
    ("name", "variance", "weight", "bias"),
    [
        # arXiv:2106.10165, section 5.3.3
        ("silu", 14.32017362, 1.98800468, 0.55514317),
        ("gelu", (math.sqrt(17) + 3) / 2, 1.98305826, 0.17292239),
    ],
)
def test_half_stable_constants(name: str, variance: float, weight: float, bias: float) -> None:
    found = ig.activation(name).properties.criticality
    assert found.universality == "half-stable"
    assert found.variance == pytest.approx(variance, abs=1e-8)
    assert (found.weight, found.bias) == pytest.approx((weight, bias), abs=1e-8)


@pytest.mark.parametrize(
    ("name", "universality", "weight"),
    [
        ("relu", "scale-invariant", 2.0),
        ("leaky_relu", "scale-invariant", 2 / (1 + 0.01**2)),
        ("identity", "scale-invariant", 1.0),
        ("tanh", "K*=0", 1.0),
        # linear until a clip, and on each side of a kink: E f'^2 -> (f'(0-)^2 + f'(0+)^2) / 2
        ("hardtanh", "K*=0", 1.0),
        ("relu6", "K*=0", 2.0),
        ("selu", "K*=0", 2 / (1.0507009873554805**2 * (1 + 1.6732632423543772**2))),
        ("sigmoid", "none", None),
        ("softplus", "none", None),
        ("relu2", "none", None),
        ("softshrink", "none", None),
    ],
)
def test_classes(name: str, universality: str, weight: float | None) -> None:
    found = criticality(kernel(name))
    assert found.universality == universality
    assert found.weight == (None if weight is None else pytest.approx(weight, rel=1e-12))


def test_linear_until_it_is_steeper_is_critical_nowhere() -> None:
    steeper = Kernel(lambda x: x + x * (abs(x) > 1), lambda x: 1.0 + (abs(x) > 1), (-1.0, 1.0))
    assert criticality(steeper).universality == "none"


def test_chi_are_one_where_it_is_critical() -> None:
    found = criticality(kernel("mish"))
    assert found.variance and found.weight and found.bias
    assert found.weight * kernel("mish").growth(found.variance) == pytest.approx(1, abs=1e-10)
    assert found.weight * kernel("mish").slope_square(found.variance) == pytest.approx(1, abs=1e-10)
    step = kernel("mish").step(found.variance, found.weight, found.bias)
    assert step == pytest.approx(found.variance, rel=1e-12)


def test_growth_is_the_derivative_of_the_square() -> None:
    for name in ("silu", "xielu", "relu2"):
        k, h = kernel(name), 1e-4
        slope = (k.square(0.7 + h) - k.square(0.7 - h)) / (2 * h)
        # central differences: error of order h^2
        assert k.growth(0.7) == pytest.approx(slope, rel=1e-6)


def test_the_mixture_of_swish_and_tanh() -> None:
    silu, gelu, tanh, xielu = map(ig.activation, ("silu", "gelu", "tanh", "xielu"))
    assert tanh.properties.curvature == pytest.approx(-2, abs=1e-8)
    assert silu.properties.to_dict()["curvature"] == pytest.approx(3 / 16, abs=1e-8)
    # arXiv:2605.05294
    assert ig.nn.critical_share(silu, tanh) == pytest.approx(32 / 35, abs=1e-8)
    assert ig.nn.critical_share(silu, gelu) is None
    assert xielu.properties.curvature is None  # a jump of f'' at 0
    assert ig.nn.critical_share(xielu, tanh) is None


@pytest.mark.parametrize("name", ROWS)
def test_the_recursion_of_the_variance(name: str) -> None:
    act = ig.activation(name)
    cuts = [float(c) for c in act.properties.breakpoints]
    values = act.spec.values()
    variance = 1.7
    for _ in range(2):
        ours = kernel(name).step(variance, 1.3, 0.1)
        with mp.workdps(15):
            deviation = mp.sqrt(variance)
            ends = sorted({*cuts, *(k * deviation for k in (-12, -4, -2, 0, 2, 4, 12))})
            square = mp.quad(
                lambda x, v=variance: exact(act.spec.node, x, values, mp) ** 2
                * mp.exp(-x * x / (2 * v)),
                ends,
            ) / mp.sqrt(2 * mp.pi * variance)  # fmt: skip
        assert ours == pytest.approx(0.1 + 1.3 * float(square), rel=1e-6)
        variance = ours


def test_a_mean_of_what_leaves_fp64_is_infinite_and_of_what_cancels_0() -> None:
    assert expectation(lambda x: np.exp(40 * x) ** 2) == math.inf
    assert math.isnan(expectation(lambda x: x * np.exp(x**2) ** 9))
    assert expectation(lambda x: np.sinh(18 * x)) == 0
    assert expectation(lambda x: np.exp(0.6 * x**2)) == math.inf
    assert expectation(lambda x: -np.exp(0.6 * x**2)) == -math.inf
    # to the rounding of the sum, without a warning
    for a in (4, 12, 18):
        assert expectation(lambda x, a=a: np.exp(a * x)) == pytest.approx(math.exp(a * a / 2))
    assert expectation(lambda x: x + 1e-12) == pytest.approx(1e-12, rel=1e-2)


def test_the_exponential_is_nowhere_critical() -> None:
    # chi_par / chi_perp = 2 - exp(-1.5 K) > 1 for every K
    act = ig.derive(ig.Spec(name="exponential", gradient="exp(x)"))
    assert act.properties.criticality.universality == "none"
