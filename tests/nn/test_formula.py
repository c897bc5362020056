import math
import tomllib

import pytest
import torch

import integrand as ig
from integrand.spec import spec_from_mapping


def trained(name: str = "xielu", shape: tuple[int, ...] = (1,)) -> ig.nn.Pointwise:
    layer = ig.activation(name).module(shape=shape)
    with torch.no_grad():
        for raw in layer.parameters():
            raw.add_(torch.linspace(0.37, -1.41, raw.numel()).view(shape))
    return layer


def test_the_text_has_the_trained_numbers() -> None:
    layer = ig.activation("xielu").module()
    with torch.no_grad():
        layer.alpha_p.fill_(166.0)
    found = layer.formula()
    assert found.text == "166*x**2 + 0.5*x if x > 0 else 0.8*expm1mx(x) + 0.5*x"
    assert str(found) == found.text


def test_negative_and_tiny_numbers_keep_the_text_a_formula() -> None:
    spec = ig.Spec(
        name="line", function="a*x + b*x", params={"a": ig.Param(-0.25), "b": ig.Param(1e-7)}
    )
    text = ig.derive(spec).module().formula().text
    again = ig.derive(ig.Spec(name="again", function=text))
    x = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(again(x), ig.derive(spec)(x))


@pytest.mark.parametrize("name", ["xielu", "swish"])
def test_the_spec_is_the_trained_function_bit_for_bit(name) -> None:
    layer = trained(name)
    found = layer.formula()
    spec = spec_from_mapping(tomllib.loads(found.toml))
    assert spec == found.spec
    act, x = ig.derive(spec), torch.randn(1000)
    assert torch.equal(act(x), layer(x))
    for value, again in zip(layer.values().values(), act.module().values().values(), strict=True):
        torch.testing.assert_close(again, value, rtol=1e-6, atol=0)


def test_a_channel_or_an_expert_is_named() -> None:
    for shape in ((3,), (3, 1, 1)):
        layer = trained(shape=shape)
        with pytest.raises(ig.SpecError, match=r"has 3 functions.*channel=0 ... channel=2"):
            layer.formula()
        with pytest.raises(ig.SpecError, match=r"0 ... 2, got 3"):
            layer.formula(channel=3)
        value = layer.values()["alpha_n"].reshape(-1)[2].item()
        assert layer.formula(channel=2).spec.params["alpha_n"].init == value


def test_values_that_rounding_put_on_their_bound_become_constants() -> None:
    layer = ig.activation("xielu").module()
    with torch.no_grad():
        layer.alpha_p.fill_(-200.0)
        layer.alpha_n.fill_(-200.0)
    found = layer.formula()
    values = found.spec.values()
    assert values == {"alpha_p": 0.0, "alpha_n": 0.5, "beta": 0.5}
    assert not any(p.trainable for p in found.spec.params.values())
    assert found.text == "0*x**2 + 0.5*x if x > 0 else 0.5*expm1mx(x) + 0.5*x"


def test_numbers_that_are_none_are_refused() -> None:
    layer = ig.activation("xielu").module()
    with torch.no_grad():
        layer.alpha_p.fill_(math.nan)
    with pytest.raises(ig.SpecError, match="finite"):
        layer.formula()
