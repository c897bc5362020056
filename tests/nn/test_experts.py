"""Mixtures of experts: parameters per expert, rows padded with zeros."""

import pytest
import torch

import integrand as ig


@pytest.mark.parametrize("impl", ["reference", "c"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_rows_contribute_nothing_to_parameter_gradients(impl, dtype) -> None:
    counts, tokens, width = (5, 0, 7), 8, 300
    x = torch.zeros(3, tokens, width, dtype=dtype)
    for expert, count in enumerate(counts):
        x[expert, :count] = torch.randn(count, width).to(dtype)
    x.requires_grad_()
    dout = torch.randn(3, tokens, width).to(dtype)
    layer = ig.activation("xielu").module(shape=(3, 1, 1), impl=impl)
    with torch.no_grad():
        layer.alpha_p.add_(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1))
    y = layer(x)
    y.backward(dout)
    for expert, count in enumerate(counts):
        # exactly: f(0) = 0, f'(0) = beta whatever was learned, df/dalpha(0) = 0
        assert not y[expert, count:].any()
        assert torch.equal(x.grad[expert, count:], dout[expert, count:] * 0.5)
        values = {
            name: v[expert].reshape(1).detach() for name, v in layer.values().items() if v.ndim
        }
        alone = {name: v.double().requires_grad_() for name, v in values.items()}
        rows = x[expert, :count].detach().double()
        if count:
            ig.activation("xielu")(rows, **alone).backward(dout[expert, :count].double())
        for name, value in alone.items():
            raw = getattr(layer, name)
            slope = torch.sigmoid(raw.detach()[expert].double()).reshape(1)
            wanted = slope * (value.grad if count else torch.zeros(1, dtype=torch.float64))
            terms = slope * (rows.square() * dout[expert, :count].double()).abs().sum()
            found = raw.grad[expert].double().reshape(1)
            assert (found - wanted).abs() <= 1e-5 * terms


def test_only_padding_gives_exact_zeros() -> None:
    for impl in ("reference", "c"):
        layer = ig.activation("xielu").module(shape=(2, 1, 1), impl=impl)
        layer(torch.zeros(2, 6, 300)).backward(torch.randn(2, 6, 300))
        assert not layer.alpha_p.grad.any()
        assert not layer.alpha_n.grad.any()


@pytest.mark.parametrize("impl", ["reference", "c"])
def test_a_trained_exponent_ignores_padding(impl) -> None:
    # df/dp = x**p * log(x): nan at 0 as written, 0 in the limit
    spec = ig.Spec(
        name="power",
        gradient="p*x**(p - 1) if x > 0 else -p*(-x)**(p - 1)",
        params={"p": ig.Param(2.5, above=1)},
    )
    layer = ig.derive(spec).module(impl=impl)
    x = torch.tensor([0.0, -0.0, 0.5])
    layer(x).sum().backward()
    alone = ig.derive(spec).module(impl=impl)
    alone(x[2:]).sum().backward()
    assert layer.p.grad.item() == alone.p.grad.item() != 0
