"""Stand-alone Triton source, interpreted: the kernels' own results, the declared state."""

import pytest
import torch

import integrand as ig

pytest.importorskip("triton")
# the interpreter computes dead branches with numpy, which warns of them
pytestmark = pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")

BITS = torch.arange(-(2**15), 2**15, 11, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def layer_of(module, act):
    return getattr(module, "".join(part.capitalize() for part in act.name.split("_")))()


# closed form, table, sine in fp64, no parameters
@pytest.mark.parametrize("name", ["xielu", "integral_silu", "snake", "gelu"])
def test_it_is_the_certified_kernel_bit_for_bit(name, imported):
    act = ig.activation(name)
    text = act.source("triton", torch.bfloat16)
    assert "import integrand" not in text and "from integrand" not in text
    written, own = layer_of(imported(text), act), act.module(impl="triton")
    written.load_state_dict(own.state_dict(), strict=True)
    results = []
    for layer in (written, own):
        x = BITS.clone().requires_grad_()
        y = layer(x)
        y.backward(torch.ones_like(y))
        results.append((y.detach(), x.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_parameter_gradients_and_odd_sizes(imported):
    act = ig.activation("xielu")
    written = layer_of(imported(act.source("triton")), act)
    own = act.module(impl="reference").double()
    torch.manual_seed(0)
    x = torch.randn(3, 1023).t().requires_grad_()
    y = written(x)
    y.sum().backward()
    z = x.detach().double().requires_grad_()
    exact = own(z)
    exact.sum().backward()
    torch.testing.assert_close(y.double(), exact, rtol=2**-20, atol=2**-22)
    torch.testing.assert_close(x.grad.double(), z.grad, rtol=2**-20, atol=2**-22)
    for p, q in zip(written.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-5, atol=0)
    assert written(torch.empty(0, 5)).shape == (0, 5)
    with pytest.raises(TypeError, match=r"for torch\.float32"):
        written(torch.ones(3, dtype=torch.float16))


def test_folded_values_leave_no_state(imported):
    act = ig.activation("xielu")
    values = {"alpha_p": 166.0, "alpha_n": 41.25}
    written = layer_of(imported(act.source("triton", values=values)), act)
    assert not written.state_dict()
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0])
    torch.testing.assert_close(written(x), act(x, impl="reference", **values))
