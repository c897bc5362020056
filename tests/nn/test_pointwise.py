import copy
import itertools
import pickle

import pytest
import torch

import integrand as ig
from integrand.nn.constraints import constrained, inverse_softplus, raw_values


@pytest.fixture(scope="module")
def act():
    return ig.activation("xielu")


def test_state_dict_is_that_of_apertus(act):
    state = act.module().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        "alpha_p": (1,),
        "alpha_n": (1,),
        "beta": (),
        "eps": (),
    }
    transformers = pytest.importorskip("transformers")
    theirs = transformers.activations.XIELUActivation(dtype=torch.float32).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in state.items()}
    for name in state:
        torch.testing.assert_close(state[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_raw_parameters_stay_fp32_in_half_models(act):
    layer = act.module()
    assert layer.bfloat16().alpha_p.dtype == torch.float32
    assert layer.half().beta.dtype == torch.float32
    assert layer.double().alpha_p.dtype == torch.float64
    assert act.module(dtype=torch.bfloat16).alpha_p.dtype == torch.bfloat16
    x = torch.randn(3, dtype=torch.bfloat16)
    assert act.module()(x).dtype == torch.bfloat16


@pytest.mark.parametrize("value", [1e-6, 1e-3, 0.3, 1.0, 19.0, 21.0, 1e3, 1e6])
def test_values_survive_the_round_trip_through_raw(value):
    params = {"a": ig.Param(value, above=0), "b": ig.Param(-value, below=0)}
    raw = raw_values(params, {"a": value, "b": -value})
    back = constrained(params, {k: torch.tensor([v]) for k, v in raw.items()})
    # the raw parameter itself is rounded to fp32: |raw| 2^-24 is the error of a small value
    assert abs(back["a"].item() / value - 1) < 1e-6
    assert abs(back["b"].item() / -value - 1) < 1e-6


def test_inverse_softplus_neither_overflows_nor_cancels():
    assert inverse_softplus(1e300) == 1e300
    assert inverse_softplus(1e-300) == pytest.approx(-690.7755, rel=1e-6)


def test_constraints_hold_under_a_violent_optimiser(act):
    layer = act.module()
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e4)
    x = torch.randn(512)
    for sign in (1, -1, 1, -1):
        optimiser.zero_grad()
        (sign * layer(x).sum()).backward()
        optimiser.step()
        values = layer.values()
        assert values["alpha_p"] >= 0
        assert values["alpha_n"] >= values["beta"]


@pytest.mark.parametrize("shape", [(), (1,), (37,), (3, 33), (2, 7, 16), (0, 8)])
@pytest.mark.parametrize("impl", ["reference", "c"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_shape_and_dtype_keeps_them(act, shape, impl, dtype):
    layer = act.module(impl=impl)
    x = torch.randn(shape).to(dtype).requires_grad_()
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    gradients = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    assert gradients[0].shape == x.shape
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("impl", ["reference", "c"])
def test_strides_do_not_matter(act, impl):
    layer = act.module(impl=impl)
    base = torch.randn(8, 6, 10)
    for x in (base.transpose(0, 2), base[:, ::2], base.chunk(2, -1)[1], base.expand(2, 8, 6, 10)):
        torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=0, atol=0)
        z = x.detach().clone().requires_grad_()
        layer(x.detach().requires_grad_()).backward(
            torch.ones_like(x).transpose(0, 1).transpose(0, 1)
        )
        layer(z).sum().backward()


def test_implementations_agree_in_every_gradient(act):
    x = torch.randn(4, 1000)
    results = []
    for impl in ("reference", "c"):
        layer = act.module(impl=impl, shape=(1000,))
        z = x.clone().requires_grad_()
        y = layer(z)
        results.append([y, *torch.autograd.grad(y.square().sum(), [z, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def test_gradients_are_right_in_fp64(act):
    x = torch.tensor([-3.0, -1e-3, -1e-7, 1e-7, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    values = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.8, 0.9, 0.5)]

    def call(x, p, n, b):
        return act(x, impl="reference", alpha_p=p, alpha_n=n, beta=b)

    # a step below 1e-7 keeps the differences on one side of the breakpoint
    assert torch.autograd.gradcheck(call, (x, *values), eps=5e-8, atol=1e-6)
    assert torch.autograd.gradgradcheck(call, (x, *values), eps=5e-8, atol=1e-5)


def test_zero_is_exact(act):
    for impl in ("reference", "c"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            x = torch.tensor([0.0, -0.0], dtype=dtype, requires_grad=True)
            y = act(x, impl=impl)
            y.sum().backward()
            assert y.tolist() == [0.0, 0.0]
            assert x.grad.tolist() == [0.5, 0.5]


def test_backward_keeps_x_alone(act):
    x = torch.randn(1 << 14, dtype=torch.bfloat16, requires_grad=True)
    layer = act.module()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    assert sum(n for n in storages.values() if n >= 1024) == 2 * x.numel()


def test_a_layer_made_on_meta_takes_its_declared_values(act):
    layer = act.module(device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    expected = act.module().state_dict()
    assert list(layer.state_dict()) == list(expected)
    assert all(torch.equal(v, expected[k]) for k, v in layer.state_dict().items())


def test_copies_and_pickles_work(act):
    layer = act.module(shape=(4,))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        x = torch.randn(3, 4)
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    assert pickle.loads(pickle.dumps(act)) == act


def test_repr_shows_the_formula(act):
    text = repr(act.module())
    assert "alpha_p*x**2 + beta*x if x > 0" in text
    assert "alpha_n=0.8" in text


def test_wrong_calls_are_one_sentence(act):
    x = torch.randn(3)
    with pytest.raises(ig.SpecError, match="no parameter 'gamma'"):
        act(x, gamma=1.0)
    with pytest.raises(ig.BackendError, match="must be float32"):
        act(torch.arange(3))
    with pytest.raises(ig.BackendError, match="impl must be one of"):
        act(x, impl="cuda")
    with pytest.raises(ig.BackendError, match="shape"):
        act(x, alpha_p=torch.ones(2))
    with pytest.raises(ValueError, match="shape must be"):
        act.module(shape=())


def test_values_follow_the_parameters_without_autograd(act):
    layer = act.module()
    with torch.no_grad():
        before = layer.values()["alpha_p"].item()
        layer.alpha_p.add_(1.0)
        assert layer.values()["alpha_p"].item() > before + 0.5


def test_compiled_inference_has_no_graph_break(act):
    layer = act.module()
    x = torch.linspace(-6, 6, 257)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True)(x)
    torch.testing.assert_close(compiled, act(x, impl="reference"), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.compile(act, fullgraph=True)(x), compiled, rtol=0, atol=0)


def test_values_follow_a_fused_optimiser(act):
    layer = act.module()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = layer.values()["alpha_p"].item()
    layer(torch.randn(64)).sum().backward()
    optimiser.step()
    with torch.no_grad():
        assert layer.values()["alpha_p"].item() != before


def test_compiled_module_equals_the_reference(act):
    layer = act.module()
    x = torch.linspace(-6, 6, 257, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True)
    y = compiled(x)
    layer.impl = "reference"
    torch.testing.assert_close(y, layer(x), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), x),
        torch.autograd.grad(layer(x).sum(), x),
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("assign", [False, True])
def test_a_half_precision_checkpoint_leaves_raw_parameters_fp32(act, assign):
    state = {k: v.bfloat16() for k, v in act.module(shape=(3,)).state_dict().items()}
    model = torch.nn.Sequential(act.module(shape=(3,)))
    model.load_state_dict({f"0.{k}": v for k, v in state.items()}, assign=assign)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(model.state_dict()[f"0.{k}"], v.float()) for k, v in state.items())
    assert isinstance(model[0].alpha_p, torch.nn.Parameter)
    half = act.module(dtype=torch.bfloat16, shape=(3,))
    half.load_state_dict(state, assign=assign)
    assert half.alpha_p.dtype == torch.bfloat16


def test_results_without_autograd_follow_every_kind_of_change(act):
    layer, x = act.module(), torch.randn(64)

    def result():
        with torch.inference_mode():
            return layer(x).clone()

    seen = [result()]
    layer.alpha_p.data.add_(1.0)
    seen.append(result())
    layer.alpha_p.data = torch.tensor([0.3])
    seen.append(result())
    layer.alpha_p = torch.nn.Parameter(torch.tensor([-1.0]))
    seen.append(result())
    layer.beta.fill_(0.125)
    seen.append(result())
    layer.load_state_dict(act.module().state_dict())
    seen.append(result())
    assert torch.equal(seen[0], seen[-1])
    for a, b in itertools.pairwise(seen):
        assert not torch.equal(a, b)


def test_inference_results_equal_those_with_autograd(act):
    layer, x = act.module(), torch.randn(64)
    with torch.no_grad():
        first = layer(x)
    assert torch.equal(first, layer(x))
    with torch.inference_mode():
        assert torch.equal(act(x), first)
    # what inference mode made must not be saved for a backward pass
    z = x.clone().requires_grad_()
    torch.autograd.grad(act(z).sum(), z)


@pytest.mark.parametrize("shape", [(1,), (3,)])
def test_a_module_made_on_meta_takes_its_declared_values(act, shape):
    with torch.device("meta"):
        layer = act.module(shape=shape)
    assert all(t.is_meta and t.dtype == torch.float32 for t in layer.state_dict().values())
    assert "alpha_p=meta" in repr(layer)
    assert layer(torch.empty(5, 3, device="meta")).is_meta
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    expected = act.module(shape=shape)
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in expected.state_dict().items())
    x = torch.randn(5, 3)
    assert torch.equal(layer(x), expected(x))


def test_only_the_named_parameters_are_reset(act):
    layer = act.module()
    with torch.no_grad():
        layer.alpha_p.fill_(3.0)
        layer.alpha_n.fill_(3.0)
        layer(torch.ones(2))
        layer.reset_parameters(["alpha_n"])
        assert layer.alpha_p.item() == 3.0
        assert layer.alpha_n.item() == act.module().alpha_n.item()
        assert torch.equal(layer(-torch.ones(2)), act(-torch.ones(2)))


def test_values_of_half_precision_parameters_are_not_rounded(act):
    layer = act.module(dtype=torch.bfloat16)
    with torch.no_grad():
        layer.alpha_p.fill_(10.3)
    expected = torch.nn.functional.softplus(layer.alpha_p.detach().float())
    assert torch.equal(layer.values()["alpha_p"].detach(), expected)
