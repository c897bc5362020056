"""The same activation keeps its numbers; another starts at its declared ones."""

from typing import Any

import pytest
import torch
from torch import nn

import integrand as ig
from integrand.models.swap_probe import same_function


def mlp(act: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), act, nn.Linear(32, 8))


@pytest.mark.parametrize(
    ("old", "name", "values"),
    [
        (nn.LeakyReLU(0.2), "leaky_relu", {"a": 0.2}),
        (nn.PReLU(init=0.1), "prelu", {"a": 0.1}),
        (nn.CELU(2.0), "celu", {"alpha": 2.0}),
    ],
    ids=["LeakyReLU", "PReLU", "CELU"],
)
def test_numbers_of_torchs_modules_become_values(old: Any, name: str, values: Any) -> None:
    model = mlp(old)
    x = torch.randn(16, 8)
    before = model(x)
    site = ig.swap(model, name).sites[0]
    assert site.carried == tuple(values)
    assert {k: v.item() for k, v in model[1].values().items()} == pytest.approx(values, rel=1e-6)
    assert torch.allclose(model(x), before, rtol=1e-5, atol=1e-6)


def test_gelu_by_tanh_is_no_gelu_by_erf() -> None:
    by_erf = ig.activation("gelu").module()
    assert same_function(nn.GELU(), by_erf)
    assert not same_function(nn.GELU(approximate="tanh"), by_erf)


def test_a_similar_function_is_not_the_same() -> None:
    """ReLU6 is no ReLU, a sharper softplus none: nothing of them is carried over."""
    for old, name in ((nn.ReLU6(), "prelu"), (nn.Softplus(beta=2.0), "leaky_relu")):
        model = mlp(old)
        assert ig.swap(model, name).sites[0].carried == ()
        declared = ig.activation(name).module().state_dict()
        assert all(torch.equal(model[1].state_dict()[k], declared[k]) for k in declared)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (32,)])
def test_our_own_module_keeps_numbers_dtype_shape_and_freezing(dtype: Any, shape: Any) -> None:
    act = ig.activation("xiprelu")
    model = mlp(act.module(dtype=dtype, shape=shape))
    old = model[1]
    with torch.no_grad():
        old.alpha_p.normal_()
    old.alpha_n.requires_grad_(False)
    ig.swap(model, act)
    assert model[1] is not old
    for (name, a), b in zip(old.named_parameters(), model[1].parameters(), strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype and a.requires_grad == b.requires_grad, name
        assert a is not b
    assert (model.half()[1].alpha_p.dtype is torch.float32) == (dtype is None)


def test_values_cross_to_another_parametrisation_of_the_same_function() -> None:
    """A slope kept positive has another raw number than an unbounded one, and the same value."""
    positive = ig.Spec(
        name="positive_slope",
        function="x if x > 0 else s*x",
        params={"s": ig.Param(0.5, above=0)},
    )
    model = mlp(nn.PReLU(init=0.3))
    ig.swap(model, "prelu")
    assert ig.swap(model, positive).sites[0].carried == ("s",)
    assert model[1].values()["s"].item() == pytest.approx(0.3, rel=1e-6)
    assert model[1].s.item() != pytest.approx(0.3, rel=0.1)


class Trained(nn.Module):
    """The layout and function of transformers' XIELUActivation."""

    def __init__(self, alpha_p: float = 1.0, eps: float = -1e-6, dtype: Any = None) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.tensor([alpha_p], dtype=dtype))
        self.alpha_n = nn.Parameter(torch.tensor([0.25], dtype=dtype))
        self.register_buffer("beta", torch.tensor(0.5, dtype=dtype))
        self.register_buffer("eps", torch.tensor(eps, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = nn.functional.softplus(self.alpha_p)
        n = self.beta + nn.functional.softplus(self.alpha_n)
        low = torch.expm1(torch.min(x, self.eps)) - x  # pyrefly: ignore[bad-argument-type]
        return torch.where(x > 0, p * x * x, low * n) + self.beta * x


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (Trained(alpha_p=float("nan")), "'1' has the parameters of 'xielu'.* 'alpha_p' is not fin"),
        (
            Trained(eps=-0.1),
            "'1' has the parameters of 'xielu'.* off by .*'eps' is -0.1, not -1e-06",
        ),
    ],
)
def test_trained_numbers_are_never_reset_silently(old: nn.Module, message: str) -> None:
    model = mlp(old)
    with pytest.raises(ig.SwapError, match=message):
        ig.swap(model, "xielu")
    assert model[1] is old


def test_fp32_parameters_stay_fp32_in_a_model_made_half() -> None:
    model = mlp(Trained())
    swap = ig.swap(model, "xielu")
    assert "alpha_p" in swap.sites[0].carried and not swap.sites[0].caution
    model.half()
    assert model[1].alpha_p.dtype is torch.float32 and model[1].alpha_p.item() == 1.0


def test_a_report_says_that_bf16_parameters_move_in_steps() -> None:
    swap = ig.swap(mlp(Trained(dtype=torch.bfloat16)), "xielu")
    assert "raw parameters in bf16: they move by 2^-8 steps" in str(swap)
