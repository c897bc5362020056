"""The GPU's kernels on CPU tensors, by Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

import integrand as ig
from integrand.nn.mlp import MLP, GatedMLP
from integrand.sparsity import accelerate
from integrand.sparsity.accelerate import Accelerated

FORMS = ("plain", "gated", "both")
D, H = 21, 50


def made(form: str, dtype: torch.dtype, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    act, sizes = ig.activation("relu"), (D, H, bias)
    both = form == "both"
    mlp = MLP(act, *sizes) if form == "plain" else GatedMLP(act, *sizes, activate_up=both)
    return nn.Sequential(mlp).to(dtype).eval().requires_grad_(False)


def exact(model: nn.Module, form: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The block in fp64, and the sum of the magnitudes it adds."""
    mlp, x = copy.deepcopy(model[0]), x.double()
    maps = [getattr(mlp, n).double() for n in ("gate_proj", "up_proj") if hasattr(mlp, n)]
    h = maps[0](x).relu()
    if form != "plain":
        h = h * (maps[1](x).relu() if form == "both" else maps[1](x))
    down = mlp.down_proj.double()
    return down(h), h.abs() @ down.weight.abs().T


def fast(model: nn.Module) -> Accelerated:
    handle = accelerate(model, impl="triton")
    assert handle.left == {}
    return handle


@pytest.mark.parametrize(
    ("form", "dtype", "bias"),
    [
        *((form, torch.float32, True) for form in FORMS),
        ("gated", torch.float32, False),
        ("gated", torch.bfloat16, True),
        ("both", torch.float16, True),
    ],
)
def test_skipping_is_dense(form: str, dtype: torch.dtype, bias: bool) -> None:
    model = made(form, dtype, bias)
    x = torch.randn(1, D).to(dtype)
    expected, sizes = exact(model, form, x)
    handle = fast(model)
    y = model(x)
    # a term is rounded at most four times before the sum (the two products, act of one, h), and
    # the result once; each product adds up D terms of at most the size of x and a weight
    spread = (5 * torch.finfo(dtype).eps + D * 2.0**-23) * (sizes + expected.abs() + 1)
    assert bool(((y.double() - expected).abs() <= spread).all())
    assert torch.equal(y, model(x)) and handle.calls()["skipping"] == 2
    model(torch.randn(2, D).to(dtype))
    assert handle.calls()["original"] == 1


@pytest.mark.parametrize("where", ["x", "down"])
@pytest.mark.parametrize("form", FORMS[:2])
def test_what_is_not_finite_comes_out(form: str, where: str) -> None:
    model = made(form, torch.float32)
    x = torch.randn(1, D)
    dense = copy.deepcopy(model)
    fast(model)
    for one in (model, dense):
        if where == "x":
            x[0, 3] = torch.inf
        else:
            one[0].down_proj.weight[:, 5] = torch.nan
            one[0].get_submodule("up_proj" if form == "plain" else "gate_proj").bias[5] = -1e3
    expected = dense(x)
    assert bool(expected.isnan().any()) and torch.equal(model(x).isnan(), expected.isnan())


def test_inactive_rows_are_not_read() -> None:
    model = made("gated", torch.float32)
    fast(model)
    x = torch.randn(1, D)
    block = model[0]
    y = model(x)
    inactive = block.gate_proj(x)[0] <= 0
    assert 10 < int(inactive.sum()) < 40
    # written past the version counter, so that nothing looks for it
    block.up_proj.weight.data[inactive] = torch.nan
    block.down_proj.weight.data[:, inactive] = torch.nan
    assert torch.equal(model(x), y)
