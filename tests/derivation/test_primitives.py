"""Every primitive against its exact meaning, in both precisions."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from mpmath import mp

from integrand.derivation.numeric import NumpyOps
from integrand.derivation.primitives import LEFT, PRIMITIVES, call

JOINTS = (0.25, 0.35, 0.4142, 0.5, 0.6, 0.65, 1, 1.5, 1.75, 2, 2.4142, 9.2, 10.05, 13, 14.2, 15, 20)
FAR_JOINTS = (
    26.6,
    29,
    37.5,
    38.5,
    45,
    64,
    87.4,
    88.7,
    89.4,
    103,
    512,
    708,
    709.7,
    710.4,
    745,
    1e30,
)
CORE = ("exp", "log", "sqrt", "abs", "rint", "sin", "cos")
DEFINED = [name for name in PRIMITIVES if name not in CORE]


@cache
def points(bits: int) -> np.ndarray:
    """Bfloat16 values, a realistic distribution, small ones, and both neighbours of each joint."""
    dtype = np.dtype(f"float{bits}")
    generator = np.random.default_rng(7)
    patterns = (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)
    patterns = generator.permutation(patterns[np.isfinite(patterns)])[:700]
    joints = np.array([s * j for j in JOINTS + FAR_JOINTS for s in (1, -1)], dtype)
    spread = 10 ** generator.uniform(-9, 3, 400) * generator.choice([-1, 1], 400)
    info = np.finfo(dtype)
    edges = [info.max, -info.max, info.tiny, -info.tiny, info.smallest_subnormal, 0.0, -0.0]
    parts = [patterns, generator.normal(size=400) * 3, generator.uniform(-30, 10, 400), spread]
    parts += [
        joints,
        np.nextafter(joints, dtype.type(2000)),
        np.nextafter(joints, dtype.type(-2000)),
    ]
    return np.concatenate([p.astype(dtype) for p in [*parts, np.array(edges, dtype)]])


def admitted(name: str, x: np.ndarray) -> np.ndarray:
    return x[~(x > 0)] if name.endswith(LEFT) else x


def ulps(got: float, exact: Any, bits: int) -> float:
    """The error in units in the last place of the exact value, 0 if both overflow."""
    precision, smallest, top = (24, -149, 128) if bits == 32 else (53, -1074, 1024)
    if mp.isnan(exact):
        return 0.0 if np.isnan(got) else float("inf")
    if abs(exact) >= mp.mpf(2) ** top * (1 - mp.mpf(2) ** -precision / 2):
        return 0.0 if np.isinf(got) and (got > 0) == (exact > 0) else float("inf")
    if not np.isfinite(got):
        return float("inf")
    exponent = max(int(mp.mag(exact)) - precision, smallest) if exact else smallest
    return float(abs(mp.mpf(float(got)) - exact) / mp.mpf(2) ** exponent)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_error_is_within_the_stated_ulps(name: str, bits: int) -> None:
    x = admitted(name, points(bits))
    with np.errstate(all="ignore"):
        y = call(NumpyOps(bits), name, x)
    assert y.dtype == x.dtype
    row = PRIMITIVES[name]
    with mp.workprec(100):
        errors = [
            ulps(b, row.meaning(mp, mp.mpf(float(a))), bits) for a, b in zip(x, y, strict=True)
        ]
    worst = int(np.argmax(errors))
    assert errors[worst] <= (row.ulp32 if bits == 32 else row.ulp64), float(x[worst])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_infinities_give_the_limit_and_nan_stays_nan(name: str, bits: int) -> None:
    o = NumpyOps(bits)
    x = admitted(name, o.array([np.inf, -np.inf, np.nan]))
    with np.errstate(all="ignore"):
        y = call(o, name, x)
    with mp.workprec(100):
        exact = [float(PRIMITIVES[name].meaning(mp, mp.mpf(float(v)))) for v in x]
    np.testing.assert_array_equal(y, o.array(exact))


class _TorchOps:
    bits = 64

    @staticmethod
    def octave(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        n = torch.round(x / np.log(2))
        return n, torch.exp2(n - k)

    exp, log, sqrt, abs, rint = torch.exp, torch.log, torch.sqrt, torch.abs, torch.round
    where = torch.where


DERIVATIVES = {
    "expm1": torch.exp,
    "log1p": lambda x: 1 / (1 + x),
    "tanh": lambda x: 1 - torch.tanh(x) ** 2,
    "sinh": torch.cosh,
    "cosh": torch.sinh,
    "atan": lambda x: 1 / (1 + x * x),
    "asinh": lambda x: torch.rsqrt(1 + x * x),
    "erf": lambda x: 2 / torch.pi**0.5 * torch.exp(-x * x),
    "erfc": lambda x: -2 / torch.pi**0.5 * torch.exp(-x * x),
    "sigmoid": lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    "softplus": torch.sigmoid,
    "softsign": lambda x: 1 / (1 + x.abs()) ** 2,
    "relu": lambda x: (x > 0).to(x.dtype),
    "sign": torch.zeros_like,
    "ndtr": lambda x: torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5,
    "logcosh": torch.tanh,
    "expm1mx": torch.expm1,
    "xmlog1p": lambda x: x / (1 + x),
    "xmatan": lambda x: x * x / (1 + x * x),
    "softplus0": torch.sigmoid,
}


@pytest.mark.parametrize("name", DEFINED)
def test_autograd_through_a_definition_gives_the_derivative(name: str) -> None:
    domain = [0.0, 0.3, -0.3, 0.7, -0.9, 1.2, 1.9, 3.0, 21.0, 60.0]
    if name not in ("log1p", "xmlog1p"):
        domain += [-1.2, -3.0, -21.0, -60.0, -600.0]
    if name.endswith(LEFT):
        domain = [x for x in domain if x <= 0]
    x = torch.tensor(domain, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(call(_TorchOps, name, x).sum(), x)
    # definitions are approximations to 2**-53 of the value, their slopes to a little less
    torch.testing.assert_close(
        slope, DERIVATIVES[name.removesuffix(LEFT)](x).detach(), rtol=1e-12, atol=1e-15
    )
