"""Stand-alone source for torch: the declared module without integrand; values folded in."""

import pytest
import torch

import integrand as ig

BITS = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e30, -1e30]
# one each: closed form, table and wide, parameter as breakpoint, sine, power, constant slope
ROWS = [
    "xielu", "integral_smooth_leaky", "integral_silu", "berlu", "snake", "xiprelup", "identity",
]  # fmt: skip


def quadrature():
    params = {"a": ig.Param(0.3)}
    return ig.derive(ig.Spec(name="quad", gradient="exp(a*x)*sigmoid(x)", params=params))


def layer_of(module, act):
    return getattr(module, "".join(part.capitalize() for part in act.name.split("_")))()


def samples(dtype):
    if dtype == torch.bfloat16:
        return BITS
    torch.manual_seed(0)
    return torch.cat([torch.randn(2000, dtype=dtype) * 5, torch.tensor(SPECIAL, dtype=dtype)])


def outcome(layer, x):
    x = x.clone().requires_grad_()
    y = layer(x)
    inputs = [x, *layer.parameters()]
    return [y.detach(), *torch.autograd.grad(y, inputs, torch.ones_like(y), allow_unused=True)]


@pytest.mark.parametrize("name", [*ROWS, "quadrature"])
def test_the_written_module_is_the_reference_bit_for_bit_with_its_state(name, imported):
    act = quadrature() if name == "quadrature" else ig.activation(name)
    text = act.source("torch")
    assert "import integrand" not in text and "from integrand" not in text
    written, own = layer_of(imported(text), act), act.module(impl="reference")
    for (key, a), (other, b) in zip(
        written.state_dict().items(), own.state_dict().items(), strict=True
    ):
        assert key == other and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.25)
    written.load_state_dict(own.state_dict(), strict=True)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = samples(dtype)
        for a, b in zip(outcome(written, x), outcome(own, x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["xielu", "berlu", "integral_smooth_leaky"])
def test_the_written_module_passes_the_certificate(name, imported):
    act = ig.activation(name)
    for text in (act.source("torch"), act.source("torch", values={})):
        certificate = ig.certify(act, candidate=layer_of(imported(text), act))
        assert certificate.ok, certificate


def test_per_channel_parameters_have_their_own_gradients(imported):
    act = ig.activation("xielu")
    written, own = imported(act.source("torch")).Xielu(shape=(5,)), act.module(shape=(5,))
    with torch.no_grad():
        own.alpha_p.copy_(torch.linspace(-1, 1, 5))
    written.load_state_dict(own.state_dict())
    x = torch.randn(3, 7, 5)
    for a, b in zip(outcome(written, x), outcome(own, x), strict=True):
        torch.testing.assert_close(a, b)


def test_the_written_module_traces_whole_and_differentiates_twice(imported):
    module = imported(ig.activation("integral_silu").source("torch"))
    layer, x = module.IntegralSilu(), torch.linspace(-9, 9, 20)
    traced = torch.compile(layer, fullgraph=True, backend="eager")
    for a, b in zip(outcome(traced, x), outcome(layer, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(traced(x), layer(x))
    wide = imported(ig.activation("xielu").source("torch")).Xielu().double()
    x = torch.tensor([-3.0, -1e-3, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(wide, x) and torch.autograd.gradgradcheck(wide, x)
    slopes = torch.func.vmap(torch.func.grad(wide))(x.detach())
    torch.testing.assert_close(slopes, outcome(wide, x.detach())[1])


def test_raw_parameters_stay_fp32_in_a_half_precision_model(imported):
    layer = imported(ig.activation("xielu").source("torch")).Xielu().bfloat16()
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float32}


def test_a_layer_writes_its_current_values_as_numbers(imported):
    act = ig.activation("xielu")
    layer = act.module()
    with torch.no_grad():
        layer.alpha_p.fill_(3.7)
    text = layer.source("torch")
    alpha_p = layer.values()["alpha_p"].item()
    assert f"alpha_p = {alpha_p!r}" in text
    written = imported(text).Xielu()
    assert not written.state_dict()
    x = samples(torch.float32)
    y, dx = outcome(written, x)
    z, dz, *_ = outcome(layer, x)
    # one side computes 2 alpha_p in double, the other in float
    torch.testing.assert_close(y, z, rtol=2**-21, atol=0, equal_nan=True)
    torch.testing.assert_close(dx, dz, rtol=2**-21, atol=2**-24, equal_nan=True)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"alpha": 1.0}, "has no parameter 'alpha'; it has: alpha_p, alpha_n, beta"),
        ({"alpha_n": 0.4}, "'alpha_n' must be above beta = 0.5"),
        ({"beta": float("nan")}, "'beta' must be a finite number, got nan"),
        ({"beta": "half"}, "'beta' must be a finite number, got 'half'"),
        ({"beta": "0.4"}, "'beta' must be a finite number, got '0.4'"),
        ({"beta": False}, "'beta' must be a finite number, got False"),
        ({"alpha_p": torch.tensor(True)}, "'alpha_p' must be a finite number, got tensor(True)"),
        ({"alpha_n": 0.5}, "'alpha_n' must be above beta = 0.5"),
        ({"alpha_p": 1e39}, "'alpha_p' must be at most 3.4028234663852886e+38 in size"),
        ({"alpha_p": 2e38}, "made of them below 3.4028234663852886e+38"),
        ({"alpha_p": torch.ones(4)}, "must be a single number, 'alpha_p' has shape (4,)"),
    ],
)
def test_values_that_cannot_be_folded_are_refused(values, said):
    with pytest.raises(ig.SpecError) as refusal:
        ig.activation("xielu").source("c", values=values)
    assert said in str(refusal.value)
    with pytest.raises(ig.SpecError, match="single number"):
        ig.activation("xielu").module(shape=(4,)).source("torch")


def test_a_value_too_large_for_fp32_is_folded_where_fp64_computes():
    values = {"alpha_p": 1e39}
    for target in ("c", "triton"):
        text = ig.activation("xielu").source(target, torch.float64, values)
        assert f"{2e39:.17g}" in text or "2e+39" in text
        with pytest.raises(ig.SpecError, match="float32's largest number"):
            ig.activation("xielu").source(target, torch.bfloat16, values)


def test_a_layer_on_its_open_bounds_is_written(imported):
    layer = ig.activation("xielu").module(impl="reference")
    with torch.no_grad():
        layer.alpha_n.fill_(-20)
    assert layer.values()["alpha_n"].item() == 0.5
    x = torch.linspace(-4, 4, 50)
    written = imported(layer.source("torch")).Xielu()
    torch.testing.assert_close(written(x), layer(x).detach())
    # 0.7 in fp32 is below 0.7, 0.1 in fp32 above 0.1
    params = {"a": ig.Param(1.0, above=0.7), "b": ig.Param(0.01, below=0.1)}
    params["c"] = ig.Param(0.5, above=-0.1, below=0.7)
    act = ig.derive(ig.Spec(name="bounded", function="a*x + b*x*x + c*sin(x)", params=params))
    layer = act.module(impl="reference")
    for raw in (-200.0, 200.0):
        with torch.no_grad():
            layer.a.fill_(-200), layer.b.fill_(-200), layer.c.fill_(raw)
        written = imported(layer.source("torch")).Bounded()
        torch.testing.assert_close(written(x), layer(x).detach())
        with torch.no_grad():
            values = {k: v.item() for k, v in layer.values().items()}
        with pytest.raises(ig.SpecError, match="must be"):
            act.source("torch", values=values)


def test_an_unknown_target_names_the_known_ones():
    with pytest.raises(ig.BackendError, match="torch, c, triton, jax, not for 'onnx'"):
        ig.activation("relu").source("onnx")


def test_bounds_of_every_kind_and_names_of_the_source_s_own(imported):
    params = {
        "F": ig.Param(0.5, above=-1, below=2),
        "torch": ig.Param(1.5, below=5),
        "v1": ig.Param(2.5, above=0, below="torch2"),
        "f": ig.Param(3.5, above="F"),
        "torch2": ig.Param(4.5),
    }
    text = "F*x*x + torch*x + v1*f*x + torch2*x"
    act = ig.derive(ig.Spec(name="names", function=text, params=params))
    written, own = imported(act.source("torch")).Names(), act.module(impl="reference")
    with torch.no_grad():
        for k, p in enumerate(own.parameters()):
            p.add_(0.5 - 0.3 * k)
    written.load_state_dict(own.state_dict())
    assert {k: v.item() for k, v in written.values().items()} == {
        k: v.item() for k, v in own.values().items()
    }
    x = samples(torch.float32)
    for a, b in zip(outcome(written, x), outcome(own, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("target", ["torch", "triton"])
@pytest.mark.parametrize("name", ["f", "none", "true", "value_error", "b_l_o_c_k"])
def test_a_class_shadows_nothing_of_its_source(target, name, imported):
    if target == "triton":
        pytest.importorskip("triton")
    params = {"a": ig.Param(0.5, above=0), "tuple": ig.Param(1.5), "self": ig.Param(2.5, above="a")}
    text = "a*x*x + tuple*x + self if x > 0 else self*exp(x)"
    act = ig.derive(ig.Spec(name=name, function=text, params=params))
    module = imported(act.source(target))
    [layer] = [v for k, v in vars(module).items() if k.endswith("_") and isinstance(v, type)]
    own, x = act.module(impl="reference"), torch.linspace(-3, 3, 50)
    layer = layer()
    layer.load_state_dict(own.state_dict(), strict=True)
    for a, b in zip(outcome(layer, x), outcome(own, x), strict=True):
        torch.testing.assert_close(a, b)
