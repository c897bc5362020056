"""The warm start fits to the old function on the inputs it really gets."""

from typing import Any

import pytest
import torch
from torch import nn

import integrand as ig


class Opaque(nn.Module):
    """A function whose numbers cannot be read off."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self._inside = [act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._inside[0].to(x.dtype)(x)


def net(act: nn.Module, scale: float = 2.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), act, nn.Linear(64, 8))
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return model


X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))


def test_parameters_of_the_same_family_are_recovered() -> None:
    act = ig.activation("xielu").module()
    with torch.no_grad():
        act.alpha_p.fill_(1.7)
        act.alpha_n.fill_(-0.4)
    model = net(Opaque(act))
    site = ig.swap(model, "xielu", warm_start=X).sites[0]
    before, after = site.residual or (0.0, 1.0)
    assert site.carried == () and after < 1e-6 < before
    assert model[1].alpha_p.item() == pytest.approx(1.7, abs=1e-5)
    assert model[1].alpha_n.item() == pytest.approx(-0.4, abs=1e-5)


def distance(f: nn.Module, old: nn.Module, z: torch.Tensor) -> float:
    with torch.no_grad():
        return ((f(z) - old(z)).norm() / old(z).norm()).item()


def test_the_residual_is_the_least_distance_on_the_measured_inputs() -> None:
    """From the model's own 16,384 pre-activations, fewer than the sample holds."""
    model, old = net(nn.GELU()), nn.GELU()
    site = ig.swap(model, "xielu", warm_start=X).sites[0]
    z = model[0](X).detach()
    declared = distance(ig.activation("xielu").module(), old, z)
    least = distance(model[1], old, z)
    assert site.residual == pytest.approx((declared, least), rel=1e-4) and least < declared
    for p in model[1].parameters():
        for step in (-0.05, 0.05):
            with torch.no_grad():
                p += step
            assert distance(model[1], old, z) > least
            with torch.no_grad():
                p -= step


def test_the_fit_depends_on_the_input_distribution() -> None:
    values = []
    for scale in (0.1, 4.0):
        model = net(nn.GELU(), scale)
        ig.swap(model, "xielu", warm_start=X)
        values.append(model[1].values()["alpha_p"].item())
    assert values[0] == pytest.approx(0.4, abs=0.05)  # GELU is x/2 + 0.399 x^2 near 0
    assert values[1] < 0.2  # and x far from it


@pytest.mark.parametrize(
    "data",
    [X, (X,), {"input": X}, [X[:128], X[128:]], [(X,)], lambda model: model(X)],
    ids=["tensor", "arguments", "keywords", "batches", "loader", "callable"],
)
def test_data_comes_in_any_usual_form_and_modes_survive(data: Any) -> None:
    model = net(nn.GELU()).train()
    model[2].eval()
    site = ig.swap(model, "prelu", warm_start=data).sites[0]
    assert site.residual is not None and site.residual[1] < site.residual[0]
    assert [m.training for m in model] == [True, True, False]


def test_a_shared_instance_is_fitted_to_the_inputs_of_both_sites() -> None:
    act = nn.GELU()
    model = nn.Sequential(net(act, 0.1), net(act, 4.0))
    with torch.no_grad():
        z = torch.cat([model[0][0](X), model[1][0](model[0](X))])
    swap = ig.swap(model, "xielu", warm_start=X)
    declared = distance(ig.activation("xielu").module(), act, z)
    least = distance(model[0][1], act, z)
    for site in swap.sites:
        assert site.residual == pytest.approx((declared, least), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("xielu", True, "needs data"),
        ("xielu", 3, "got int"),
        ("relu2", X, "no trainable parameter"),
        ("xielu", lambda model: None, "'1' never ran"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_nothing_changes(
    name: str, data: Any, message: str
) -> None:
    model = net(nn.GELU())
    old = model[1]
    with pytest.raises(ig.SwapError, match=message):
        ig.swap(model, name, warm_start=data)
    assert model[1] is old


def test_an_error_in_the_model_leaves_no_recorder_behind() -> None:
    model = net(nn.GELU())
    old = model[1]
    with pytest.raises(ig.SwapError):
        ig.swap(model, "xielu", warm_start=torch.randn(2, 9))
    assert model[1] is old


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("hi", "warm_start cannot be run: data for the model must be .* got str"),
        (3, "warm_start cannot be run: data for the model must be .* got int"),
        (torch.randn(2, 5), "failed on the data of warm_start .RuntimeError: mat1 and mat2"),
        (torch.full((4, 8), torch.nan), "'1' got no finite input on the data of warm_start"),
    ],
    ids=["text", "number", "shape", "nan"],
)
def test_data_that_cannot_be_fitted_to_is_named_as_the_cause(data: Any, message: str) -> None:
    old = nn.GELU()
    model = net(old)
    with pytest.raises(ig.SwapError, match=message) as caught:
        ig.swap(model, "xielu", warm_start=data)
    assert model[1] is old
    assert (caught.value.__cause__ is None) == ("finite" in message)


def test_a_report_says_that_its_swap_was_undone() -> None:
    swap = ig.swap(net(nn.GELU()), "xielu")
    assert "undone" not in str(swap)
    swap.undo()
    assert str(swap).startswith("undone: the model holds its old activations again")
