"""Rows beside the functions of the same name in PyTorch and transformers, in fp64."""

import random

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from integrand.derivation.derive import derive_program
from integrand.derivation.exact import exact
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import evaluate
from integrand.spec import row

mp = mpmath.mp.clone()
mp.dps = 30

TORCH = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    "relu6": F.relu6,
    "softshrink": F.softshrink,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "atan": torch.atan,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
}
TRANSFORMERS = {
    "identity": "linear",
    "relu2": "relu2",
    "gelu": "gelu_python",
    "gelu_tanh": "gelu_new",
    "gelu_quick": "quick_gelu",
    "laplace": "laplace",
    "hardswish": "hardswish",
    "silu": "swish",
}


def truth(name: str, x: float):
    """f(x) at the initial values: the row's text, or its integral by quadrature."""
    spec = row(name).spec
    values = {k: mp.mpf(v) for k, v in spec.values().items()}
    if spec.kind == "function":
        return exact(spec.node, mp.mpf(x), values, mp)
    return mp.quad(lambda t: exact(spec.node, t, values, mp), [0, mp.mpf(x)])


def points() -> Tensor:
    rng = random.Random(0)
    sizes = [10 ** rng.uniform(-6, 1.2) for _ in range(100)]
    breakpoints = [0.0, 0.5, 1.0, 2.0, 3.0, 6.0]
    return torch.tensor(sizes + breakpoints, dtype=torch.float64) * torch.tensor([[1.0], [-1.0]])


def assert_equal_up_to_rounding(name: str, peer) -> None:
    x = points().flatten()
    for at, got in zip(x.tolist(), peer(x).tolist(), strict=True):
        want = truth(name, at)
        # at most 16 roundings of terms no larger than 1, |x| and |f|
        bound = 16 * 2.0**-53 * max(1, abs(at), abs(want))
        assert abs(got - want) <= bound, f"{name}({at}): peer {got}, row {float(want)}"


@pytest.mark.parametrize("name", TORCH)
def test_row_equals_torch(name):
    assert_equal_up_to_rounding(name, TORCH[name])


@pytest.mark.parametrize("name", TORCH)
def test_slope_equals_torch_also_where_the_pieces_meet(name):
    program = derive_program(row(name).spec).program
    x = points().flatten().requires_grad_()
    (peer,) = torch.autograd.grad(TORCH[name](x).sum(), x)
    o = NumpyOps(64)
    params = {k: o.array(v) for k, v in row(name).spec.values().items()}
    with np.errstate(all="ignore"):  # branches not taken may be anything
        (slope,) = evaluate(program, o, x.detach().numpy(), params, ["df"])
    # torch 2.13 returns 1/6 rounded to fp32 as the slope of its fp64 hardsigmoid
    unit = 2.0**-24 if name == "hardsigmoid" else 2.0**-53
    # at most 16 roundings of terms no larger than 1, |x| and |df|
    bound = 16 * unit * np.maximum(1, np.maximum(abs(x.detach().numpy()), abs(slope)))
    off = abs(slope - peer.numpy()) > bound
    assert not off.any(), f"{name}: {x[torch.from_numpy(off)].tolist()}"


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_row_equals_transformers(name):
    activations = pytest.importorskip("transformers.activations")
    assert_equal_up_to_rounding(name, activations.ACT2FN[TRANSFORMERS[name]])


def test_softplus_equals_torch_below_its_threshold():
    x = points().flatten()
    x = x[x < 20]
    for at, got in zip(x.tolist(), F.softplus(x).tolist(), strict=True):
        assert abs(got - mp.log1p(mp.exp(at))) <= 16 * 2.0**-53 * max(1, abs(at))


def test_xielu_equals_transformers_away_from_its_clamp():
    activations = pytest.importorskip("transformers.activations")
    module = activations.XIELUActivation(dtype=torch.float64)
    x = points().flatten()
    # on (-1e-6, 0] its expm1(min(x, -1e-6)) is a constant
    x = x[(x > 0) | (x <= -1e-6)]
    for at, got in zip(x.tolist(), module(x).tolist(), strict=True):
        want = truth("xielu", at)
        assert abs(got - want) <= 32 * 2.0**-53 * max(1, abs(at), abs(want))
