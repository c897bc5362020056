import pytest
import torch
from torch import nn

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.nn.groups import parameter_groups


def decoder() -> Decoder:
    config = DecoderConfig(
        vocab_size=16, d_model=8, d_hidden=12, layers=2, heads=2, kv_heads=1, gated=False, tied=True
    )
    return Decoder(config, activation("xielu"))


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = decoder()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    grouped = [p for group in parameter_groups(model) for p in group["params"]]
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(wanted)
    assert {id(p) for p in grouped} == {id(p) for p in wanted}


def test_matrices_decay_and_nothing_else_does() -> None:
    groups = {g["name"]: g for g in parameter_groups(decoder(), weight_decay=0.1)}
    assert {name: g["weight_decay"] for name, g in groups.items()} == {
        "matrices": 0.1,
        "vectors": 0.0,
        "activations": 0.0,
    }
    assert all(p.ndim >= 2 for p in groups["matrices"]["params"])
    assert len(groups["activations"]["params"]) == 4  # alpha_p and alpha_n in two layers


def test_activation_group_has_its_own_rate_and_decay() -> None:
    groups = parameter_groups(
        decoder(), lr=1e-3, activation_lr_scale=0.25, activation_weight_decay=0.5
    )
    optimizer = torch.optim.AdamW(groups, lr=7.0)
    found = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found["activations"] == (0.25e-3, 0.5)
    assert found["matrices"][0] == found["vectors"][0] == 1e-3


def test_a_scale_without_a_rate_is_refused() -> None:
    with pytest.raises(Error, match="pass lr"):
        parameter_groups(decoder(), activation_lr_scale=0.1)


def test_a_model_without_activations_of_ours_has_no_such_group() -> None:
    names = [g["name"] for g in parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))]
    assert names == ["matrices", "vectors"]


def test_activations_of_other_libraries_are_warned_of(caplog) -> None:
    class Foreign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha_p = torch.nn.Parameter(torch.ones(1))
            self.alpha_n = torch.nn.Parameter(torch.ones(1))

    net = torch.nn.Sequential(torch.nn.Linear(2, 2), Foreign())
    parameter_groups(net)
    assert "1.alpha_p and 1 more of other libraries' activations" in caplog.text
    caplog.clear()
    parameter_groups(torch.nn.Sequential(activation("xielu").module()))
    assert not caplog.text
