"""Stand-alone source for JAX: values, derivatives of both modes, what backward keeps."""

import numpy as np
import pytest
import torch

import integrand as ig

jax = pytest.importorskip("jax")
jnp = jax.numpy

BITS = np.arange(2**16, dtype=np.uint16)
X = torch.from_numpy(BITS.view(np.int16)).view(torch.bfloat16)


def patterns():
    return jax.lax.bitcast_convert_type(jnp.asarray(BITS), jnp.bfloat16)


def function_of(module, act):
    return getattr(module, act.name, None) or getattr(module, f"{act.name}_")


def exact(act):
    """f and f' of every bf16 number, in fp64."""
    x = X.double().requires_grad_()
    y = act(x, impl="reference")
    return y.detach().numpy(), torch.autograd.grad(y, x, torch.ones_like(y))[0].numpy()


def ulps(got, want):
    """Errors in bf16 ulps where XLA's flushing of fp32 denormals to 0 does not show."""
    got = np.asarray(got.astype(jnp.float32)).astype(np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    infinite = np.isinf(want)
    assert np.array_equal(got[infinite], want[infinite])
    size = np.abs(want)
    # an exp that underflows is multiplied by at most 128 afterwards
    kept = np.isfinite(want) & (size > 2.0**-118) & (size < 2.0**127)
    kept &= np.abs(X.double().numpy()) > 2.0**-118
    _, exponent = np.frexp(size[kept])
    error = np.abs(got[kept] - want[kept])
    return np.max(error / np.ldexp(1.0, exponent - 8), initial=0.0)


# one each: closed form, table, table in fp64, parameter as breakpoint, sine in fp64, no parameters
@pytest.mark.parametrize(
    "name", ["xielu", "integral_silu", "integral_smooth_leaky", "berlu", "snake", "gelu"]
)
def test_every_bf16_number_has_its_f_and_slope_within_an_ulp(name, imported):
    act = ig.activation(name)
    text = act.source("jax")
    assert "torch" not in text and "import integrand" not in text
    f = function_of(imported(text), act)
    y, back = jax.vjp(jax.jit(f), patterns())
    (slope,) = back(jnp.ones_like(y))
    assert y.dtype == slope.dtype == jnp.bfloat16
    values = exact(act)
    assert ulps(y, values[0]) <= 1 and ulps(slope, values[1]) <= 1


def test_slopes_at_breakpoints_are_the_declared_ones_in_both_modes(imported):
    xielu = imported(ig.activation("xielu").source("jax")).xielu
    x = jnp.asarray([0.0, -0.0, -1e-7, 1e-7], jnp.float32)
    slopes = jax.jit(jax.vmap(jax.grad(xielu)))(x)
    assert slopes.tolist() == jax.jit(lambda v: jax.jvp(xielu, (v,), (v * 0 + 1,))[1])(x).tolist()
    assert slopes[:2].tolist() == [0.5, 0.5] and (abs(slopes - 0.5) <= 2**-22).all()
    berlu = imported(ig.activation("berlu").source("jax")).berlu
    act = ig.activation("berlu")
    edges = [act.spec.values()["eps"], -act.spec.values()["eps"], 0.0]
    x = torch.tensor(edges, requires_grad=True)
    act(x, impl="reference").sum().backward()
    assert jax.jit(jax.vmap(jax.grad(berlu)))(jnp.asarray(edges)).tolist() == x.grad.tolist()


def test_raw_parameters_their_gradients_and_values_are_those_of_the_module(imported):
    act = ig.activation("xielu")
    module, own = imported(act.source("jax")), act.module(shape=(6,), impl="reference")
    raw = module.raw_parameters((6,))
    assert {k: v.tolist() for k, v in raw.items()} == {
        k: v.tolist() for k, v in own.named_parameters()
    }
    torch.manual_seed(0)
    x = torch.randn(50, 6)

    def loss(raw, x):
        return module.xielu(x, **module.values(raw)).sum()

    dx, draw = jax.jit(jax.grad(loss, (1, 0)))(raw, jnp.asarray(x.numpy()))
    x.requires_grad_()
    own(x).sum().backward()
    np.testing.assert_allclose(dx, x.grad, rtol=1e-6, atol=1e-7)
    for name, p in own.named_parameters():
        np.testing.assert_allclose(draw[name], p.grad, rtol=1e-5)


def test_backward_keeps_x_in_its_own_type_and_the_values_alone(imported, capsys):
    from jax.ad_checkpoint import print_saved_residuals

    xielu = imported(ig.activation("xielu").source("jax")).xielu
    x = jnp.ones((64, 8), jnp.bfloat16)
    print_saved_residuals(lambda x, a: xielu(x, a).sum(), x, jnp.ones(1))
    kept = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert [kind for kind in kept if "[]" not in kind and "[1]" not in kind] == ["bf16[64,8]"]


def test_other_types_and_transformations(imported):
    module = imported(ig.activation("xielu").source("jax"))
    assert module.xielu(jnp.ones((), jnp.float16)).dtype == jnp.float16
    assert float(module.xielu(1)) == float(jnp.float32(1.3))
    assert jax.jit(jax.hessian(module.xielu))(jnp.float32(0.5)) == pytest.approx(1.6)
    x = np.linspace(-5, 5, 101)
    with jax.enable_x64(True):
        y = module.xielu(jnp.asarray(x))
        assert y.dtype == jnp.float64
        want = ig.activation("xielu")(torch.from_numpy(x), impl="reference").numpy()
        np.testing.assert_allclose(np.asarray(y), want, rtol=1e-15, atol=1e-16)


def test_folded_values_leave_a_function_of_x_alone(imported):
    act = ig.activation("xielu")
    values = {"alpha_p": 166, "alpha_n": 41.25}
    module = imported(act.source("jax", values=values))
    assert not hasattr(module, "raw_parameters")
    y = jax.jit(module.xielu)(patterns())
    want = act(X.double(), impl="reference", **values).numpy()
    # beside its root at -0.024 the terms cancel: relative to the larger one
    size = np.maximum(np.abs(want), 0.5 * np.abs(X.double().numpy()) * 2.0**-22 * 2**8)
    kept = np.isfinite(want) & (size > 2.0**-118) & (size < 2.0**127)
    error = np.abs(np.asarray(y.astype(jnp.float32))[kept] - want[kept])
    assert np.max(error / size[kept]) <= 2.0**-8


@pytest.mark.parametrize("name", ["sum", "zip", "isinstance", "none", "partial", "lambda"])
def test_a_function_shadows_nothing_of_its_source(name, imported):
    params = {"float": ig.Param(0.5), "jax": ig.Param(1.5), "jax_": ig.Param(2.5, above="jax")}
    act = ig.derive(ig.Spec(name=name, function="float*x*x + jax*jax_*x", params=params))
    module = imported(act.source("jax"))
    f = getattr(module, name if name == "none" else f"{name}_")
    slope = jax.grad(lambda x: f(x, **module.values(module.raw_parameters(()))))(jnp.float32(2))
    assert float(slope) == pytest.approx(2 * 0.5 * 2 + 1.5 * 2.5)
