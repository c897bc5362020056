"""Parameter gradients over many elements: close to fp64, and the same every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

import integrand as ig
from integrand.kernels import c
from integrand.kernels.reference import run

ACT = ig.activation("xielu")
# terms whose exact sums are computed, and how often they come
DRAWS, REPEATS = 2**20, 32
PARTIALS = [f"d_{name}" for name in ACT.spec.params]


def parameters() -> list[Tensor]:
    return [torch.tensor([v], requires_grad=True) for v in ACT.spec.values().values()]


@cache
def data() -> tuple[Tensor, Tensor, list[float], list[float]]:
    """x, dout, and per parameter the sum of terms and of their sizes in fp64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(DRAWS, generator=generator, dtype=torch.bfloat16)
    # mostly one sign: a naive fp32 sum grows until it swallows its terms
    dout = torch.rand(DRAWS, generator=generator, dtype=torch.bfloat16) - 0.25
    with torch.no_grad():
        values = [p.double() for p in parameters()]
        terms = [dout.double() * d for d in run(ACT.program, x.double(), values, PARTIALS)]
    sums, sizes = ([REPEATS * t.sum().item() for t in ts] for ts in (terms, map(abs, terms)))
    return x.repeat(REPEATS), dout.repeat(REPEATS), sums, sizes


def by_kernel(x: Tensor, dout: Tensor, params: list[Tensor]) -> list[Tensor]:
    return c.load(ACT.program, x.dtype).backward(x, dout, params)[1]


def under_inductor(x: Tensor, dout: Tensor, params: list[Tensor]) -> list[Tensor]:
    f = torch.compile(lambda x, *p: ACT(x, **dict(zip(ACT.spec.params, p, strict=True))))
    return list(torch.autograd.grad(f(x.requires_grad_(), *params), params, dout))


@pytest.mark.parametrize("gradients", [by_kernel, under_inductor])
def test_sums_of_many_terms_are_right(gradients: Callable[..., list[Tensor]]) -> None:
    x, dout, sums, sizes = data()
    found = gradients(x.detach(), dout, parameters())
    for got, exact, size in zip(found, sums, sizes, strict=True):
        assert abs(got.item() - exact) <= 1e-5 * size


def test_sums_are_bitwise_equal_from_run_to_run_and_for_any_number_of_threads() -> None:
    x, dout, _, _ = data()
    x, dout = x[: 2**20 + 77], dout[: 2**20 + 77]
    before, results = torch.get_num_threads(), []
    try:
        for run_number in range(20):
            torch.set_num_threads(1 + run_number % 3)
            results.append(torch.cat(by_kernel(x, dout, parameters())))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
