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


def pair(form: str, dtype: torch.dtype, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """A block, and the same in fp64."""
    torch.manual_seed(0)
    act, sizes = ig.activation("relu"), (37, 131, bias)
    both = form == "both"
    mlp = MLP(act, *sizes) if form == "plain" else GatedMLP(act, *sizes, activate_up=both)
    model = nn.Sequential(mlp).to(dtype).eval().requires_grad_(False)
    return model, copy.deepcopy(model).double()


def fast(model: nn.Module) -> Accelerated:
    handle = accelerate(model, impl="triton")
    assert handle.left == {}
    return handle


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_skipping_is_dense(form: str, bias: bool, dtype: torch.dtype) -> None:
    model, exact = pair(form, dtype, bias)
    handle = fast(model)
    x = torch.randn(1, 37).to(dtype)
    y, expected = model(x), exact(x.double())
    # every term is rounded at most four times before the sum and once after: h, its factors, y
    (found,) = [b.block for b in handle.blocks.values()]
    with torch.no_grad():
        sizes = found.hidden(x).double().abs() @ found.down.weight.double().abs().T
    sums = 37 * torch.finfo(torch.float32).eps
    spread = (4 * torch.finfo(dtype).eps + sums) * (sizes + expected.abs() + 1)
    assert bool(((y.double() - expected).abs() <= spread).all())
    assert torch.equal(y, model(x)) and handle.calls()["skipping"] == 2
    model(torch.randn(2, 37).to(dtype))
    assert handle.calls()["original"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_comes_out(form: str, value: float) -> None:
    model, exact = pair(form, torch.float32)
    fast(model)

    def compare(x: Tensor) -> None:
        got, expected = model(x), exact(x.double())
        assert not bool(expected.isfinite().all())
        assert torch.equal(got.isnan(), expected.isnan())

    x = torch.randn(1, 37)
    compare(torch.where(torch.arange(37) == 3, value, x))
    for each in (model, exact):
        each[0].down_proj.weight[:, 5] = value
        each[0].get_submodule("up_proj" if form == "plain" else "gate_proj").bias[5] = -1e3
    compare(x)


def test_inactive_rows_are_not_read() -> None:
    model, _ = pair("gated", torch.float32)
    fast(model)
    x = torch.randn(1, 37)
    block = model[0]
    y = model(x)
    inactive = block.gate_proj(x)[0] <= 0
    assert 20 < int(inactive.sum()) < 110
    # written past the version counter, so the poison is not looked for
    block.up_proj.weight.data[inactive] = torch.nan
    block.down_proj.weight.data[:, inactive] = torch.nan
    assert torch.equal(model(x), y)
