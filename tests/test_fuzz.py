"""Random gradients, shapes, layouts, dtypes and parameter shapes: C against reference and fp64."""

from __future__ import annotations

import functools
import random
import re

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import integrand as ig
from integrand.derivation.numeric import UNIT, evaluate_with_bound
from integrand.kernels import reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TERMS = ("tanh({k}*x)", "sigmoid({k}*x)", "atan(x)", "sin({k}*x)", "x", "1")
FALLING = (*TERMS, "expm1(x)", "exp({k}*x)")


def _gradient(seed: int) -> tuple[str, dict[str, ig.Param]]:
    """A gradient of one or two pieces, each `coefficient * primitive + constant`."""
    pick = random.Random(seed)
    params = {
        name: ig.Param(pick.choice((0.5, 0.75, 1.25)), **bounds)
        for name, bounds in (("a", {"above": 0}), ("b", {}))[: seed % 3]
    }

    def piece(terms: tuple[str, ...]) -> str:
        factor = pick.choice([*params, "0.5", "2"])
        term = pick.choice(terms).format(k=pick.choice(("1", "2", "0.5")))
        return f"{factor}*{term} + {pick.choice([*params, '0.25', '0'])}"

    if seed % 2:
        return f"{piece(TERMS)} if x > 0 else {piece(FALLING)}", params
    return piece(TERMS), params


@functools.cache
def _activation(seed: int) -> ig.Activation:
    text, params = _gradient(seed)
    used = {name: p for name, p in params.items() if re.search(rf"\b{name}\b", text)}
    return ig.derive(ig.Spec(name=f"fuzz{seed}", gradient=text, params=used))


def _laid_out(x: Tensor, layout: str) -> Tensor:
    match layout:
        case "transposed" if x.ndim > 1:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        case "sliced" if x.ndim:
            return torch.stack([x, x.flip(-1)], -1)[..., 0]
        case "expanded" if x.ndim > 1 and x.shape[0]:
            return x[:1].expand(x.shape)
    return x


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    seed=st.integers(0, 5),
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple)
    | st.sampled_from([(), (1,), (130, 259), (3, 1023)]),
    layout=st.sampled_from(["contiguous", "transposed", "sliced", "expanded"]),
    dtype=st.sampled_from(DTYPES),
    kinds=st.tuples(*[st.sampled_from(["single", "channels", "experts"])] * 2),
    numbers=st.integers(0, 1000),
)
def test_c_and_reference_stay_within_the_error_bound(
    seed: int,
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    kinds: tuple[str, str],
    numbers: int,
) -> None:
    act = _activation(seed)
    generator = torch.Generator().manual_seed(numbers)
    x = _laid_out((torch.randn(shape, generator=generator) * 3).to(dtype), layout)
    dout = torch.randn(shape, generator=generator).to(dtype)
    values = {}
    for name, kind in zip(act.spec.params, kinds, strict=False):
        size = {"single": (1,), "channels": shape[-1:] or (1,), "experts": (1,)}[kind]
        if kind == "experts" and len(shape) > 1:
            size = (shape[0], *[1] * (len(shape) - 1))
        v = torch.rand(size, generator=generator) + 0.5
        values[name] = v.double() if dtype == torch.float64 else v
    exact = {n: v.double().numpy() for n, v in values.items()}
    names = ["f", "df", *(f"d_{n}" for n in act.program.params)]
    if not shape:
        exact = {n: v.reshape(()) for n, v in exact.items()}
    truths, bounds = evaluate_with_bound(act.program, x.double().numpy(), exact, names)
    # the bound counts roundings of fp64; the same program in fp32 makes them 2^29 larger, and its
    # primitives' ulps are at most twice those of fp64
    wide = reference.compute_dtype(act.program, dtype) == torch.float64
    scale = 2.0 if wide else 2.0 * 2.0**29
    for impl in ("c", "reference"):
        z = x.detach().requires_grad_()
        params = {n: v.clone().requires_grad_() for n, v in values.items()}
        y = act(z, impl=impl, **params)
        ordered = [params[n] for n in act.program.params]
        dx, *dparams = torch.autograd.grad(y, [z, *ordered], dout)
        assert y.shape == dx.shape == x.shape
        assert y.dtype == dx.dtype == dtype
        slopes = dout.double().numpy()
        rounding = torch.finfo(dtype).eps / 2 + 2 * UNIT
        for got, truth, bound, factor in (
            (y, truths[0], bounds[0], 1.0),
            (dx, truths[1], bounds[1], slopes),
        ):
            want = np.broadcast_to(truth * factor, shape)
            allowed = scale * np.broadcast_to(bound * np.abs(factor), shape)
            # one product and one rounding to storage, denormals included
            allowed = allowed + 2 * rounding * np.abs(want) + torch.finfo(dtype).smallest_normal
            assert np.all(np.abs(got.detach().double().numpy() - want) <= allowed), (impl, act)
        for got, p, truth in zip(dparams, ordered, truths[2:], strict=True):
            terms = torch.as_tensor(np.broadcast_to(truth * slopes, shape).copy())
            total, size = (
                t.sum().reshape(p.shape) if p.numel() == 1 else t.sum_to_size(p.shape)
                for t in (terms, terms.abs())
            )
            assert got.shape == p.shape
            # the contract of parameter gradients, relative to the sum of absolute terms
            assert ((got.double() - total).abs() <= 1e-5 * size + 1e-30).all(), (impl, act)
