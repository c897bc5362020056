import torch

from integrand.activation import activation
from integrand.nn.gated import Gated


def test_gated_relu_squared_is_exact_on_integers() -> None:
    gate = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    up = torch.tensor([5.0, 7.0, -2.0, 2.0])
    assert Gated(activation("relu2"))(gate, up).tolist() == [0.0, 0.0, -2.0, 18.0]


def test_gradients_are_those_of_the_product() -> None:
    gated = Gated(activation("xielu"))
    generator = torch.Generator().manual_seed(0)
    gate, up, dout = torch.randn(3, 4, 9, generator=generator).unbind()
    gate.requires_grad_()
    up.requires_grad_()
    inputs = [gate, up, *gated.parameters()]
    ours = torch.autograd.grad(gated(gate, up), inputs, dout)
    plain = torch.autograd.grad(gated.act_fn(gate) * up, inputs, dout)
    assert len(ours) == 4
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)


def test_empty_and_transposed_inputs_pass() -> None:
    gated = Gated(activation("silu"))
    assert gated(torch.empty(0, 8), torch.empty(0, 8)).shape == (0, 8)
    gate = torch.randn(8, 3, requires_grad=True)
    up = torch.randn(8, 3)
    turned = gated(gate.t(), up.t())
    assert torch.equal(turned, gated(gate, up).t())
    turned.sum().backward()


def test_parameters_carry_the_names_of_the_activation() -> None:
    assert set(dict(Gated(activation("xielu")).named_parameters())) == {
        "act_fn.alpha_p",
        "act_fn.alpha_n",
    }
