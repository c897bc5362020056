"""A backward that keeps f(x) alone: its values, what it keeps, and when it is not offered."""

import copy
import pickle

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import integrand as ig
from integrand.errors import BackendError
from integrand.kernels.rounded_output import verdict

EXACT = ["relu", "leaky_relu", "hardtanh", "softshrink"]
APPROXIMATE = ["tanh", "elu", "softplus", "relu2", "sigmoid"]
HALF = [torch.bfloat16, torch.float16]


def patterns(dtype):
    x = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    return x[torch.isfinite(x)]


def dx_of(act, x, dout=None, **options):
    x = x.detach().clone().requires_grad_()
    y = act(x, **options)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y) if dout is None else dout)
    return y.detach(), dx


@pytest.mark.parametrize("impl", ["reference", "c"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_backward_equals_that_from_the_input(name, dtype, impl):
    act, x = ig.activation(name), patterns(dtype)
    y, dx = dx_of(act, x, impl=impl)
    y_only, dx_only = dx_of(act, x, impl=impl, save="output")
    assert torch.equal(y_only, y)
    assert torch.equal(dx_only, dx)


def spacing(value, dtype):
    info = torch.finfo(dtype)
    return 2.0 ** value.abs().clamp(min=info.smallest_normal).log2().floor() * info.eps


@pytest.mark.parametrize("impl", ["reference", "c"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", APPROXIMATE)
def test_an_approximate_backward_is_off_by_what_its_verdict_says(name, dtype, impl):
    act, x = ig.activation(name), patterns(dtype)
    values = tuple(act.spec.values().values())
    found = verdict(act.program, act.inverse.program, dtype, values)
    assert not found.ok
    _, exact = dx_of(act, x.double(), impl="reference")
    _, dx = dx_of(act, x, impl=impl, save="output-approximate")
    finite = torch.isfinite(dx)
    error = (dx.double() - exact).abs() / spacing(exact, dtype)
    inside = (x.abs() > found.low) & (x.abs() < found.high)
    # two kernels may round a tie of y or dx apart: half an ulp of dx more
    assert (error[inside] <= 1.5).all()
    assert (error[finite] <= found.max_ulp * 1.01 + 1.5).all()
    with pytest.raises(BackendError, match="output-approximate"):
        act(x, save="output")


@pytest.mark.parametrize("name", ["silu", "gelu", "xielu"])
def test_without_an_inverse_every_form_refuses(name):
    act = ig.activation(name)
    for make in (lambda: act(torch.ones(2), save="output"), lambda: act.module(save="output")):
        with pytest.raises(BackendError, match=r"must keep x.*changes sign"):
            make()


def test_backward_keeps_the_output_itself_and_no_more():
    layer = ig.activation("relu").module(save="output")
    weight = torch.randn(8, 64, dtype=torch.bfloat16, requires_grad=True)
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.numel() * t.element_size()
        return t

    x = torch.randn(16, 64, dtype=torch.bfloat16, requires_grad=True)
    with saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
        out = y @ weight.T
    # the product keeps y for the gradient of its weight; the activation adds nothing to that
    assert x.untyped_storage().data_ptr() not in kept
    assert kept.pop(weight.untyped_storage().data_ptr()) == weight.numel() * 2
    assert kept == {y.untyped_storage().data_ptr(): y.numel() * 2}
    out.sum().backward()
    torch.testing.assert_close(x.grad, (x > 0) * weight.sum(0), rtol=2**-7, atol=2**-5)


def slope():
    return ig.derive(
        ig.Spec(name="s", gradient="1 if x > 0 else a", params={"a": ig.Param(0.3, above=0)})
    )


def test_a_trainable_slope_learns_from_the_output():
    act, x = slope(), torch.randn(4, 33, dtype=torch.float64)
    gradients = {}
    for save in ("input", "output-approximate"):
        layer = act.module(save=save, dtype=torch.float64)
        layer(x).square().sum().backward()
        gradients[save] = layer.a.grad
    torch.testing.assert_close(*gradients.values(), rtol=1e-12, atol=0)
    # x of a bf16 output is known to 2^-9: more than the 1e-5 a parameter gradient may be off
    with pytest.raises(BackendError, match="parameter gradients"):
        act.module(save="output")(x.bfloat16())


def test_a_changed_output_is_noticed():
    x = torch.randn(8, requires_grad=True)
    y = ig.activation("relu")(x, save="output")
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_needs_the_input_says_so():
    act = ig.activation("relu")
    x = torch.randn(8, requires_grad=True)
    y = act(x, save="output")
    with pytest.raises(BackendError, match="save='input'"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(BackendError, match="reverse mode alone"):
        torch.func.grad(lambda t: act(t, save="output").sum())(x)
    with pytest.raises(BackendError, match="constants"):
        ig.activation("elu")(x, save="output-approximate", alpha=-1.0)
    with pytest.raises(BackendError, match="save must be"):
        act(x, save="nothing")


def test_layers_survive_copies_and_give_plain_outputs_without_autograd():
    layer = ig.activation("leaky_relu").module(save="output")
    x = torch.randn(5, requires_grad=True)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        (dx,) = torch.autograd.grad(other(x).sum(), x)
        assert torch.equal(dx, torch.where(x > 0, 1.0, 0.01))
    with torch.no_grad():
        assert torch.equal(layer(x), torch.where(x > 0, x, 0.01 * x))


@pytest.fixture
def fresh_compiler():
    # layers share one code object, whose recompilations are limited
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_compiled_without_a_graph_break(fresh_compiler):
    layer = ig.activation("tanh").module(save="output-approximate")
    x = torch.randn(64, dtype=torch.bfloat16, requires_grad=True)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    y = y.detach().float()
    torch.testing.assert_close(dx, (1 - y * y).bfloat16(), rtol=2**-7, atol=0)


def test_under_compile_a_dtype_is_checked_too(fresh_compiler):
    x = torch.randn(8, dtype=torch.bfloat16, requires_grad=True)
    layer = ig.activation("tanh").module(save="output")
    # dynamo quotes the error in one of its own
    with pytest.raises(Exception, match="output-approximate"):
        torch.compile(layer, backend="aot_eager")(x)
    relu = ig.activation("relu").module(save="output")
    (dx,) = torch.autograd.grad(
        torch.compile(relu, fullgraph=True, backend="aot_eager")(x).sum(), x
    )
    assert torch.equal(dx, (x > 0).bfloat16())
