"""The activation inside its matrix products, in Triton's interpreter; the benchmark's dry run."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import integrand as ig
from integrand.errors import BackendError
from integrand.kernels import reference

pytest.importorskip("triton")

from integrand.kernels import triton_gemm

SMALL = (32, 32, 16, 4, 2)


def matrix(rows: int, columns: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator) / columns**0.5).to(dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("xielu", torch.bfloat16), ("gelu_tanh", torch.bfloat16), ("integral_gelu", torch.float16)],
    ids=["xielu-bf16", "gelu_tanh-bf16", "integral_gelu-fp16"],
)
def test_an_epilogue_equals_the_product_and_the_activation(name: str, dtype: torch.dtype) -> None:
    act = ig.activation(name)
    params = [torch.tensor([float(p.init)]) for p in act.spec.params.values()]
    x, weight = 3 * matrix(40, 48, dtype, 0), matrix(72, 48, dtype, 1)
    y, h = triton_gemm.forward(act.program, x, weight, params, blocks=SMALL)
    exact = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T
    # the product in fp32, rounded once
    unit = torch.finfo(dtype).eps / 2
    assert torch.all((h.double() - exact).abs() <= unit * exact.abs() + 48 * 2**-24 * size + 1e-7)
    assert torch.equal(y, act(h, impl="triton"))
    alone, empty = triton_gemm.forward(act.program, x, weight, params, keep=False, blocks=SMALL)
    assert torch.equal(alone, y) and empty.numel() == 0

    dout, down = matrix(40, 40, dtype, 2), matrix(40, 72, dtype, 3)
    dh, again, gradients = triton_gemm.backward(act.program, dout, down, h, params, blocks=SMALL)
    assert torch.equal(again, y)
    da = dout.double() @ down.double()
    dx, sums = reference.backward(
        act.program, h.double(), da, [p.double() for p in params], [True] * len(params)
    )
    assert torch.all((dh.double() - dx).abs() <= (unit + 1e-5) * dx.abs() + 1e-5)
    for g, total in zip(gradients, sums, strict=True):
        assert total is not None and g.shape == (1,)
        assert abs(g.item() - total.item()) <= 1e-4 * da.abs().sum()
    repeated = triton_gemm.backward(act.program, dout, down, h, params, blocks=SMALL)[2]
    assert all(torch.equal(a, b) for a, b in zip(gradients, repeated, strict=True))


def test_parameters_may_be_called_what_the_product_calls_its_own() -> None:
    params = {"a": ig.Param(0.25), "b": ig.Param(0.5), "k": ig.Param(1.5), "total": ig.Param(0.75)}
    gradient = "2*k*x + b + a if x > 0 else k*tanh(x) + total*x + b + a"
    act = ig.derive(ig.Spec(name="letters", gradient=gradient, params=params))
    values = [torch.tensor([float(p.init)]) for p in params.values()]
    x, weight = 3 * matrix(40, 48, torch.bfloat16, 0), matrix(64, 48, torch.bfloat16, 1)
    y, h = triton_gemm.forward(act.program, x, weight, values, blocks=SMALL)
    assert torch.equal(y, act(h, impl="triton"))
    torch.testing.assert_close(y, act(h, impl="reference"))
    dout, down = matrix(40, 40, torch.bfloat16, 2), matrix(40, 64, torch.bfloat16, 3)
    _, _, gradients = triton_gemm.backward(act.program, dout, down, h, values, blocks=SMALL)
    da, wide = dout.double() @ down.double(), [v.double() for v in values]
    _, sums = reference.backward(act.program, h.double(), da, wide, [True] * len(wide))
    for g, total in zip(gradients, sums, strict=True):
        assert total is not None and abs(g.item() - total.item()) <= 1e-4 * da.abs().sum()


def test_operands_that_the_copy_engine_cannot_read_are_refused() -> None:
    act = ig.activation("relu2")
    x, weight = matrix(8, 12, torch.bfloat16, 0), matrix(16, 12, torch.bfloat16, 1)
    with pytest.raises(BackendError, match=r"multiple of 8 elements, got torch.bfloat16 of .*12\)"):
        triton_gemm.forward(act.program, x, weight, [], blocks=SMALL)


def test_the_gpu_benchmark_runs_dry_and_prints_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    path = tmp_path / "dry.json"
    monkeypatch.setattr(sys, "argv", [str(script), "--dry-run", "--json", str(path)])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr()
    assert done.value.code == 0, said.err[-2000:]
    result = json.loads(path.read_text())
    assert result["correct"] and result["speeds"] == []
    assert "does not run" not in said.err and "us" not in said.out.split()
