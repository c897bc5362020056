"""`torch.jit.trace`, as exporters use it: the graph computes f, of other values and inputs too."""

import warnings

import pytest
import torch

import integrand as ig
from integrand.nn import MLP, GatedMLP


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: ig.activation("xielu").module(),
        lambda: ig.activation("silu").module(impl="c"),
        lambda: ig.activation("integral_gelu").module(),
        lambda: MLP(ig.activation("gelu"), 8, 16),
        lambda: GatedMLP(ig.activation("silu"), 8, 16),
    ],
    ids=["xielu", "silu-c", "table", "mlp", "gated"],
)
def test_a_traced_module_computes_f(make, grad):
    torch.manual_seed(0)
    module = make().eval()
    with torch.set_grad_enabled(grad):
        module(torch.randn(4, 8))  # what is kept between calls is there
        traced = torch.jit.trace(module, torch.randn(4, 8), check_trace=False)
        for shape in ((4, 8), (7, 8)):
            x = torch.randn(shape)
            torch.testing.assert_close(traced(x), module(x))


def test_a_traced_module_has_gradients():
    module = ig.activation("xielu").module()
    x = torch.randn(9)
    found = []
    for f in (torch.jit.trace(module, torch.randn(9), check_trace=False), module):
        module.zero_grad()
        f(x).sum().backward()
        found.append([p.grad.clone() for p in module.parameters()])
    torch.testing.assert_close(*found)


def test_a_traced_table_looks_up_the_same_segments():
    act = ig.activation("integral_gelu")
    traced = torch.jit.trace(act.module(), torch.randn(4), check_trace=False)
    x = torch.cat([scale * torch.randn(500) for scale in (1e-6, 1e-2, 1.0, 30.0, 1e4)])
    x = torch.cat([x, torch.tensor([0.0, torch.inf, -torch.inf, torch.nan, 1e-40])])
    torch.testing.assert_close(traced(x), act(x, impl="reference"), rtol=0, atol=0, equal_nan=True)
