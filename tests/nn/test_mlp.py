from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from integrand.activation import activation
from integrand.errors import Error
from integrand.nn.mlp import MLP, GatedMLP

NAMES = ["xielu", "relu2", "silu"]
BLOCKS = [MLP, GatedMLP]


def test_plain_block_has_the_tensor_names_of_apertus() -> None:
    block = MLP(activation("xielu"), 8, 12)
    assert {"up_proj.weight", "down_proj.weight", "act_fn.alpha_p", "act_fn.alpha_n"} <= set(
        block.state_dict()
    )
    assert block.up_proj.weight.shape == (12, 8)
    assert not any(name.endswith("bias") for name in block.state_dict())


def test_gated_block_has_the_tensor_names_of_llama() -> None:
    block = GatedMLP(activation("silu"), 8, 12)
    assert set(block.state_dict()) == {"gate_proj.weight", "up_proj.weight", "down_proj.weight"}


@pytest.mark.parametrize("block_type", [MLP, GatedMLP])
def test_a_name_is_not_an_activation(block_type: type[nn.Module]) -> None:
    with pytest.raises(Error, match=r"got 'gelu'; integrand.activation\(name\)"):
        block_type("gelu", 8, 16)


def test_swiglu_block_is_its_formula() -> None:
    block = GatedMLP(activation("silu"), 8, 12, bias=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gate = block.gate_proj(x)
    expected = block.down_proj(gate * torch.sigmoid(gate) * block.up_proj(x))
    # two roundings per factor, then a sum of 12 terms of size below one
    assert (block(x) - expected).abs().max() <= 32 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_type", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_recomputing_changes_no_bit_of_any_gradient(
    name: str, block_type: type[nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    block = block_type(activation(name), 16, 24, True, dtype=dtype)
    start = torch.randn(4, 7, 16, dtype=dtype)
    results = []
    for recompute in (True, False):
        block.recompute = recompute
        x = start.clone().requires_grad_()
        y = block(x)
        inputs = [x, *block.parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for ours, plain in zip(*results, strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("block_type", BLOCKS)
def test_hidden_values_are_not_kept_for_backward(block_type: type[nn.Module]) -> None:
    block = block_type(activation("xielu"), 16, 24)
    x = torch.randn(4, 16)
    for recompute in (True, False):
        block.recompute = recompute
        kept = []
        handles = [
            module.register_forward_hook(
                lambda _, args, out, kept=kept: kept.append(StorageWeakRef(out.untyped_storage()))
            )
            for module in (block.act_fn,)
        ]
        handles.append(
            block.down_proj.register_forward_pre_hook(
                lambda _, args, kept=kept: kept.append(StorageWeakRef(args[0].untyped_storage()))
            )
        )
        y = block(x)
        for handle in handles:
            handle.remove()
        assert [ref.expired() for ref in kept] == [recompute] * 2
        y.sum().backward()


def test_hooks_on_the_activation_see_each_token_once() -> None:
    block = GatedMLP(activation("silu"), 16, 24)
    calls = []
    block.act_fn.register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(4, 16)).sum().backward()
    assert len(calls) == 1


def test_activation_parameters_stay_fp32_beside_half_precision_matrices() -> None:
    block = MLP(activation("xielu"), 8, 12, dtype=torch.bfloat16)
    assert block.up_proj.weight.dtype == torch.bfloat16
    assert {p.dtype for p in block.act_fn.parameters()} == {torch.float32}
    assert block(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def _kept(block: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, Tensor]:
    """Bytes kept for backward per hidden element, without x, parameters and their casts."""
    others = {x.numel(), *(p.numel() for p in block.parameters())}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if t.numel() not in others:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = call(x)
    return sum(kept.values()) / (x.numel() // x.shape[-1] * block.up_proj.out_features), y


@pytest.mark.parametrize("mode", ["eager", "autocast", "compiled", "compiled autocast"])
@pytest.mark.parametrize("block_type", BLOCKS)
def test_half_precision_blocks_keep_their_projections_alone(
    block_type: type[nn.Module], mode: str
) -> None:
    torch.manual_seed(0)
    autocast, compiled = "autocast" in mode, "compiled" in mode
    dtype = torch.float32 if autocast else torch.bfloat16
    block = block_type(activation("xielu"), 64, 512, dtype=dtype)
    x = torch.randn(2, 96, 64, dtype=dtype, requires_grad=True)
    torch.compiler.reset()
    # Inductor's partitioner without its code
    backend = "aot_eager_decomp_partition"
    call = torch.compile(block, fullgraph=True, backend=backend) if compiled else block
    results = []
    for run in (call, block):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            kept, y = _kept(block, run, x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])])
        # the outputs of one projection or of two
        assert kept == (2.0 if block_type is MLP else 4.0)
    for got, want in zip(*results, strict=True):
        # Inductor's sums are in another order, its intermediates may stay in fp32
        torch.testing.assert_close(got, want, rtol=0.03, atol=0.03 * want.abs().max().item())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("block_type", BLOCKS)
def test_checkpointing_around_a_block_changes_no_gradient(
    block_type: type[nn.Module], compiled: bool
) -> None:
    torch.manual_seed(0)
    block, x = block_type(activation("xielu"), 8, 24), torch.randn(4, 8, requires_grad=True)

    def step(x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=False)

    torch.compiler.reset()
    run = torch.compile(step, fullgraph=True, backend="aot_eager") if compiled else step
    wrt = [x, *block.parameters()]
    got = torch.autograd.grad(run(x).square().sum(), wrt)
    want = torch.autograd.grad(block(x).square().sum(), wrt)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("block_type", BLOCKS)
def test_functional_transforms_give_the_gradients_of_autograd(
    block_type: type[nn.Module], compiled: bool
) -> None:
    torch.manual_seed(0)
    block = block_type(activation("xielu"), 6, 8).double()
    x, v = torch.randn(2, 3, 6, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return block(x).square().sum()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(loss)(x)

    if compiled:
        gradient = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(gradient(x), expected)
    if not compiled:
        torch.testing.assert_close(torch.func.jvp(loss, (x,), (v,))[1], (expected * v).sum())
        rows = torch.func.vmap(torch.func.grad(loss))(x)
        torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize("recompute", [True, False])
def test_an_activation_on_both_projections_is_drelu(recompute: bool) -> None:
    torch.manual_seed(0)
    block = GatedMLP(activation("relu"), 8, 24, activate_up=True, recompute=recompute).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    plain = block.down_proj(block.gate_proj(x).relu() * block.up_proj(x).relu())
    assert torch.equal(block(x), plain)
    given = torch.randn_like(plain)
    inputs = [x, *block.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(block(x), inputs, given),
        torch.autograd.grad(plain, inputs, given),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
