"""f(gate) * up in one kernel: its values, its gradients, when it runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import integrand as ig
from integrand.derivation.numeric import evaluate_with_bound
from integrand.kernels import apply_gated, c
from integrand.timing import saved_bytes

ACT = ig.activation("xielu")
VALUES = ACT.spec.values()
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def parameters() -> list[Tensor]:
    return [torch.tensor([v]) for v in VALUES.values()]


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in "gud"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (63,), (64,), (3, 1023), (2, 7, 256), (0, 8)], ids=str)
def test_products_and_gradients_are_within_rounding(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    gate, up, dout = inputs(shape, dtype)
    kernel = c.load(ACT.program, dtype)
    y = kernel.forward_gated(gate, up, parameters())
    dgate, dup, dparams = kernel.backward_gated(gate, up, dout, parameters())
    g, u, d = (t.double().numpy() for t in (gate, up, dout))
    partials = [f"d_{name}" for name in VALUES]
    values = {k: float(np.float32(v)) for k, v in VALUES.items()}
    exact, bounds = evaluate_with_bound(ACT.program, g, values, ["f", "df", *partials])
    unit = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    # f and f' to 4 ulp of their largest term, then a product or two and the rounding to storage
    slack = 8 * unit + torch.finfo(dtype).eps / 2
    tiny = torch.finfo(dtype).smallest_normal
    for got, value, factor, term in (
        (y, exact[0], u, np.abs(0.5 * g)),
        (dgate, exact[1], u * d, 0.5),
        (dup, exact[0], d, np.abs(0.5 * g)),
    ):
        allowed = np.abs(factor) * (slack * np.maximum(np.abs(value), term) + bounds[0]) + tiny
        assert got.dtype == dtype
        assert np.all(np.abs(got.double().numpy() - factor * value) <= allowed)
    for total, partial in zip(dparams, exact[2:], strict=True):
        terms = d * u * partial
        assert abs(total.item() - terms.sum()) <= 1e-5 * np.abs(terms).sum()


def test_gradients_are_bitwise_equal_for_any_number_of_threads() -> None:
    gate, up, dout = inputs((517, 263), torch.bfloat16)
    kernel = c.load(ACT.program, torch.bfloat16)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            dgate, dup, dparams = kernel.backward_gated(gate, up, dout, parameters())
            results.append([dgate, dup, *dparams])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_layouts_do_not_matter() -> None:
    gate, up, dout = inputs((33, 70), torch.float32)
    turned = [t.t().contiguous().t() for t in (gate, up, dout)]
    kernel = c.load(ACT.program, torch.float32)
    straight = kernel.backward_gated(gate, up, dout, parameters(), need_params=False)
    for mixed in ([turned[0], up, turned[2]], [gate, turned[1], dout], turned):
        other = kernel.backward_gated(*mixed, parameters(), need_params=False)
        assert all(torch.equal(a, b) for a, b in zip(straight[:2], other[:2], strict=True))
    rows = gate[:, ::2], up[:, ::2]
    together = kernel.forward_gated(*rows, parameters())
    assert torch.equal(together, kernel.forward_gated(*map(Tensor.contiguous, rows), parameters()))


def test_autograd_keeps_gate_and_up_alone() -> None:
    gate, up, dout = (t.requires_grad_() for t in inputs((64, 64), torch.bfloat16))
    values = [p.requires_grad_() for p in parameters()]
    # two bytes each, counted per element of gate; parameters are 12 bytes in all
    kept = saved_bytes(lambda x: apply_gated(ACT.program, x, up, values), gate)
    assert kept <= 4 + 12 / gate.numel()
    y = apply_gated(ACT.program, gate, up, values)
    found = torch.autograd.grad(y, [gate, up, *values], dout)
    kernel = c.load(ACT.program, torch.bfloat16)
    dgate, dup, dparams = kernel.backward_gated(gate, up, dout, values)
    for a, b in zip(found, [dgate, dup, *dparams], strict=True):
        assert torch.equal(a, b)


def test_a_gradient_of_the_gradient() -> None:
    gate, up, _ = (t.requires_grad_() for t in inputs((5,), torch.float64))
    values = [p.double().requires_grad_() for p in parameters()]
    assert torch.autograd.gradgradcheck(
        lambda *t: apply_gated(ACT.program, t[0], t[1], t[2:]), [gate, up, *values]
    )


def test_gradients_come_in_batches() -> None:
    gate, up, _ = (t.requires_grad_() for t in inputs((5,), torch.float32))
    y = apply_gated(ACT.program, gate, up, parameters())
    (rows,) = torch.autograd.grad(y, gate, torch.eye(5), is_grads_batched=True, retain_graph=True)
    (diagonal,) = torch.autograd.grad(y.sum(), gate)
    torch.testing.assert_close(rows, torch.diag(diagonal))


def test_a_hook_on_the_activation_sees_its_result_once() -> None:
    block = ig.nn.GatedMLP(ACT, 8, 16)
    seen: list[Tensor] = []
    handle = block.act_fn.register_forward_hook(lambda m, i, o: seen.append(o))
    block(torch.randn(3, 8, requires_grad=True)).sum().backward()
    assert len(seen) == 1 and seen[0].shape == (3, 16)
    handle.remove()
    block(torch.randn(3, 8, requires_grad=True)).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("case", ["channels", "meta", "compiled", "vmap", "mixed types"])
def test_where_no_kernel_does_it_the_product_is_the_same(case: str) -> None:
    gate, up, _ = inputs((4, 6), torch.float32)
    block = ig.nn.Gated(ACT, shape=(6,) if case == "channels" else (1,))
    expected = ACT(gate, impl="reference") * up
    with torch.no_grad():
        match case:
            case "channels":
                y = block(gate, up)
            case "meta":
                assert block.to("meta")(gate.to("meta"), up.to("meta")).shape == gate.shape
                return
            case "compiled":
                y = torch.compile(block, fullgraph=True, backend="aot_eager")(gate, up)
            case "vmap":
                y = torch.vmap(block)(gate, up)
            case _:
                y = block(gate, up.double())
    torch.testing.assert_close(y, expected, check_dtype=False)


def test_a_product_in_two_steps_keeps_no_more() -> None:
    gate, up, _ = (t.requires_grad_() for t in inputs((64, 64), torch.bfloat16))
    block = ig.nn.Gated(ACT, shape=(64,))
    assert saved_bytes(lambda x: block(x, up), gate) <= 4 + 12 * 64 / gate.numel()


def test_a_block_runs_on_triton_in_one_pass() -> None:
    pytest.importorskip("triton")
    gate, up, dout = inputs((3, 40), torch.float32)
    found = []
    for impl in ("triton", "c"):
        block = ig.nn.Gated(ACT, impl=impl)
        leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_(), *block.parameters()]
        found.append(torch.autograd.grad(block(*leaves[:2]), leaves, dout))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
