"""Models that are quantised, compiled, on meta, wrapped, hooked: what works, and what says why."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import integrand as ig


def mlp(act: Any = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), act(), nn.Linear(32, 8))


class LinearReLU(nn.Sequential):
    """As torch.ao.nn.intrinsic's: a linear map with its activation inside."""

    __module__ = "torch.ao.nn.intrinsic.modules.fused"


class QuantisedLinear(nn.Linear):
    __module__ = "torch.ao.nn.quantized.modules.linear"


class FSDPModule(nn.Sequential):
    """The class that torch's fully_shard mixes in."""


def hooked() -> nn.Module:
    model = mlp()
    model[1].register_forward_hook(lambda *args: None)
    return model


def parametrised() -> nn.Module:
    model = mlp(nn.PReLU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.parametrize.register_parametrization(model[1], "weight", nn.Identity())
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, "takes an nn.Module, got int"),
        (lambda: torch.jit.trace(mlp(), torch.randn(2, 8)), "TorchScript"),
        (lambda: nn.Sequential(LinearReLU(*mlp())), "'0' .LinearReLU. .* before fusing"),
        (lambda: nn.Sequential(QuantisedLinear(8, 32), *mlp()[1:]), "'0' .* before quantising"),
        (lambda: FSDPModule(*mlp()), "FSDPModule is wrapped: .* before wrapping"),
        (hooked, "'1' .ReLU. carries hooks"),
        (parametrised, "'1' .* parametrisations"),
        (lambda: mlp(nn.PReLU).to("meta"), "'1' .PReLU.* meta device"),
    ],
    ids=["number", "script", "fused", "quantised", "sharded", "hooked", "parametrised", "meta"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_refused_in_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ig.SwapError, match=message):
        ig.swap(make(), "prelu")


def test_an_unknown_activation_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ig.SpecError, match="did you mean xielu"):
        ig.swap(mlp(), "xieluu")
    with pytest.raises(ig.SwapError, match="got int"):
        ig.swap(mlp(), 3)  # pyrefly: ignore[bad-argument-type]


def test_a_model_with_quantised_weights_is_swapped() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
        x = torch.randn(4, 8)
        ig.swap(model, "relu2")
        assert torch.allclose(model(x), model[2](model[0](x).relu().square()), rtol=1e-5)


@pytest.mark.parametrize("how", ["model", "method", "block", "activation"])
def test_a_compiled_model_runs_what_it_holds(how: str) -> None:
    """torch.compile guards on modules: it traces again after the swap, and after undo."""
    torch._dynamo.reset()
    inner = mlp(nn.SiLU)
    model: Any = nn.Sequential(inner, nn.LayerNorm(8))
    if how == "model":
        model = torch.compile(model, backend="eager")
    elif how == "method":
        model.compile(backend="eager")
    elif how == "block":
        model[0] = torch.compile(inner, backend="eager")
    else:
        inner[1] = torch.compile(inner[1], backend="eager")
    x = torch.randn(4, 8)
    with torch.no_grad():
        before = model(x)
        swap = ig.swap(model, "xiprelu")
        truth = nn.functional.layer_norm(inner[2](ig.activation("xiprelu")(inner[0](x))), (8,))
        assert torch.allclose(model(x), truth, rtol=1e-5, atol=1e-5)
        swap.undo()
        assert torch.equal(model(x), before)


def test_on_meta_the_new_parameters_are_on_meta_and_load() -> None:
    model = mlp(nn.GELU).to("meta")
    ig.swap(model, "xiprelu")
    assert all(t.is_meta for t in model.state_dict().values())
    full = mlp(nn.GELU)
    ig.swap(full, "xiprelu")
    model.load_state_dict(full.state_dict(), assign=True)
    x = torch.randn(2, 8)
    assert torch.equal(model(x), full(x))


def test_a_model_moved_off_meta_starts_at_declared_values() -> None:
    """As torch's own layers: reset_parameters after to_empty."""
    model = mlp(nn.GELU).to("meta")
    ig.swap(model, "xiprelu")
    model.to_empty(device="cpu")
    model[1].reset_parameters()
    declared = ig.activation("xiprelu").module().state_dict()
    assert all(torch.equal(model[1].state_dict()[k], declared[k]) for k in declared)


def test_a_model_kept_off_the_device_is_refused() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = mlp()
    accelerate.cpu_offload(model, execution_device="cpu")
    with pytest.raises(ig.SwapError, match=r"'0' .Linear. keeps its parameters off the device"):
        ig.swap(model, "xiprelu")


def test_parameters_made_in_inference_mode_can_be_trained() -> None:
    model = mlp()
    with torch.inference_mode():
        ig.swap(model, "xiprelu")
    model(torch.randn(2, 8)).sum().backward()
    assert all(p.grad is not None for p in model[1].parameters())


def test_new_parameters_are_fp32_where_the_block_is_bf16() -> None:
    model = mlp().to(torch.bfloat16)
    ig.swap(model, "xiprelu")
    assert {p.dtype for p in model[1].parameters()} == {torch.float32}
    assert model(torch.randn(2, 8, dtype=torch.bfloat16)).dtype is torch.bfloat16


def test_undo_refuses_to_overwrite_a_later_change() -> None:
    model = mlp()
    first = ig.swap(model, "relu2")
    second = ig.swap(model, "prelu")
    with pytest.raises(ig.SwapError, match="'1' was changed after the swap"):
        first.undo()
    second.undo()
    first.undo()
    assert isinstance(model[1], nn.ReLU)
    with pytest.raises(ig.SwapError, match="undone before"):
        first.undo()


def test_undo_follows_the_mode_the_model_is_in() -> None:
    model = mlp().train()
    swap = ig.swap(model, "xiprelu")
    assert model[1].training
    model.eval()
    swap.undo()
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("nested", [False, True])
def test_undo_follows_a_cast_of_the_model(dtype: torch.dtype, nested: bool) -> None:
    """Also where the activation's own module holds no other tensor."""
    model: Any = mlp(nn.PReLU)
    if nested:
        model[1] = nn.Sequential(model[1])
    swap = ig.swap(model, "xiprelu", sites="1*")
    model.to(dtype)
    swap.undo()
    assert {t.dtype for t in model.state_dict().values()} == {dtype}
    assert model(torch.randn(2, 8, dtype=dtype)).dtype is dtype


def test_undo_leaves_a_type_of_its_own_where_nothing_was_cast() -> None:
    model = mlp(nn.PReLU)
    model[0].bfloat16()
    swap = ig.swap(model, "xiprelu")
    model[1].double()
    swap.undo()
    assert model[1].weight.dtype is torch.float32
