import pytest
import torch
from torch import nn

import integrand as ig


def model() -> nn.Sequential:
    act = ig.activation("xielu")
    return nn.Sequential(ig.nn.MLP(act, 4, 8), act.module())


def test_frozen_activations_stay_while_the_rest_trains() -> None:
    net = model()
    names = ["0.act_fn.alpha_p", "0.act_fn.alpha_n", "1.alpha_p", "1.alpha_n"]
    assert ig.nn.freeze(net) == names
    assert ig.nn.freeze(net) == []
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimiser = torch.optim.SGD(ig.nn.parameter_groups(net, lr=1.0))
    net(torch.randn(5, 4)).sum().backward()
    optimiser.step()
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"0.up_proj.weight", "0.down_proj.weight"}


def test_thawing_what_was_frozen_leaves_the_model_as_it_was() -> None:
    net = model()
    net[1].alpha_n.requires_grad_(False)
    assert ig.nn.unfreeze(net, ig.nn.freeze(net)) == [
        "0.act_fn.alpha_p", "0.act_fn.alpha_n", "1.alpha_p"
    ]  # fmt: skip
    assert not net[1].alpha_n.requires_grad
    assert ig.nn.unfreeze(net) == ["1.alpha_n"]


def test_freezing_stops_an_optimiser_made_before() -> None:
    net = model()
    optimiser = torch.optim.AdamW(ig.nn.parameter_groups(net, lr=1.0))
    net(torch.randn(5, 4)).sum().backward()
    ig.nn.freeze(net)
    before = net[1].alpha_p.clone()
    optimiser.step()
    assert torch.equal(net[1].alpha_p, before)


def test_activations_join_the_adapters_of_a_frozen_model() -> None:
    net = model().requires_grad_(False)
    net.append(nn.Linear(4, 4, bias=False))  # stands for an adapter
    ig.nn.unfreeze(net)
    groups = {g["name"]: len(g["params"]) for g in ig.nn.parameter_groups(net)}
    assert groups == {"matrices": 1, "activations": 4}


def test_a_name_of_something_else_is_refused() -> None:
    with pytest.raises(ig.Error, match=r"'0.up_proj.weight' must name an activation parameter"):
        ig.nn.unfreeze(model(), ["0.up_proj.weight"])


def test_a_model_without_our_activations_is_refused() -> None:
    with pytest.raises(ig.Error, match="no integrand activation in this model"):
        ig.nn.freeze(nn.Linear(4, 4))
