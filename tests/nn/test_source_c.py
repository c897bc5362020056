"""Stand-alone C source: compiles alone without a warning, every bf16 number right."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import integrand as ig
from integrand.kernels.c_build import compiler

STRICT = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=c11"]
BITS = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
ROWS = ["xielu", "integral_smooth_leaky", "berlu", "snake", "xiprelup", "gelu"]


def built(act, dtype, place: Path, flags, **fold):
    source, library = place / f"{act.name}.c", place / f"{act.name}.so"
    source.write_text(act.source("c", dtype, **fold))
    command = [compiler()[0], *flags, "-fPIC", "-shared", str(source), "-o", str(library), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def pointer(t):
    return ctypes.c_void_p(t.data_ptr())


def ran(code, act, x, params, dout):
    """(y, dx, dparams) of the file's two loops."""
    y, dx = torch.empty_like(x), torch.empty_like(x)
    sums = torch.zeros(len(params), dtype=torch.float64)
    shared, extra = [], []
    if params:
        # room for whatever the struct holds
        room = (ctypes.c_double * 64)()
        prepare = getattr(code, f"{act.name}_prepare")
        prepare.argtypes = [ctypes.c_void_p, *[ctypes.c_double] * len(params)]
        prepare(room, *params.values())
        shared, extra = [room], [pointer(sums)]
    n = ctypes.c_size_t(x.numel())
    getattr(code, f"{act.name}_forward")(pointer(x), pointer(y), n, *shared)
    arrays = map(pointer, (x, dout, dx))
    getattr(code, f"{act.name}_backward")(*arrays, n, *shared, *extra)
    return y, dx, sums


def exact(act, x):
    """f and f' in fp64."""
    wide = x.double().requires_grad_()
    y = act(wide, impl="reference", **act.spec.values())
    return y.detach(), torch.autograd.grad(y, wide, torch.ones_like(y))[0]


# closed form, table in fp64, parameter as breakpoint, sine in fp64, power, no parameters
@pytest.mark.parametrize("name", ROWS)
def test_every_bf16_number_has_its_f_and_slope_rounded_once(name, tmp_path):
    act = ig.activation(name)
    code = built(act, torch.bfloat16, tmp_path, STRICT)
    y, dx, _ = ran(code, act, BITS, act.spec.values(), torch.ones_like(BITS))
    x = BITS.double().abs()
    # one rounding to bf16, and fp32's part of the largest term where terms cancel
    for got, want, terms in zip((y, dx), exact(act, BITS), (x + x * x, 1 + x), strict=True):
        assert torch.equal(got.isnan(), want.isnan())
        kept = want.abs() < 2.0**127
        error = (got.double() - want).abs()[kept]
        bound = 2**-8 * (1 + 2**-6) * want.abs() + 2**-22 * terms + 2.0**-133
        assert (error <= bound[kept]).all()
        assert torch.equal(got.double()[want.isinf()], want[want.isinf()])


@pytest.mark.parametrize("name", ["xielu", "gelu", "xiprelup"])
def test_built_strictly_it_is_exact_and_sums_parameter_gradients(name, tmp_path):
    act = ig.activation(name)
    code = built(act, torch.float32, tmp_path, STRICT)
    torch.manual_seed(0)
    x, dout = torch.randn(4001) * 3, torch.randn(4001)
    values = act.spec.values()
    y, dx, sums = ran(code, act, x, values, dout)
    wide = {
        k: torch.tensor([v], dtype=torch.float64, requires_grad=True) for k, v in values.items()
    }
    z = x.double().requires_grad_()
    f = act(z, impl="reference", **wide)
    f.backward(dout.double())
    # every term of f and f' is at most (1 + |x|)^3 for these; 4 ulp of the largest
    size = (1 + x.abs().double()) ** 3
    assert ((y - f).abs() <= 2**-22 * size).all()
    assert ((dx - z.grad).abs() <= 2**-22 * size * dout.abs()).all()
    for total, p in zip(sums, wide.values(), strict=True):
        torch.testing.assert_close(total, p.grad[0], rtol=1e-5, atol=1e-5)


def test_special_points_and_folded_values_in_plain_calls(tmp_path):
    act = ig.activation("xielu")
    values = {"alpha_p": 166.0, "alpha_n": 41.25}
    code = built(act, torch.float32, tmp_path, STRICT, values=values)
    f, df = code.xielu_f, code.xielu_df
    for function in (f, df):
        function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    assert f(0.0) == 0.0 and df(0.0) == 0.5 and df(-0.0) == 0.5
    assert f(np.inf) == np.inf and f(-np.inf) == np.inf and np.isnan(f(np.nan))
    assert f(1.0) == np.float32(166.5) and df(1.0) == np.float32(332.5)
    assert f(-1.0) == pytest.approx(41.25 * np.exp(-1.0) - 0.5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=["fp16", "fp64"])
def test_other_storage_compiles_strictly(dtype, tmp_path):
    act = ig.activation("snake")
    code = built(act, dtype, tmp_path, STRICT)
    x = torch.linspace(-4, 4, 101, dtype=dtype)
    y, dx, _ = ran(code, act, x, act.spec.values(), torch.ones_like(x))
    torch.testing.assert_close(y, act(x, impl="reference"))
    assert torch.isfinite(dx).all()


# a branch that a constant rules out, a table with a constant tail, constants without parameters
@pytest.mark.parametrize("name", ["xssslupr", "tanhshrink", "integral_erf"])
def test_nothing_unused_is_left(name, tmp_path):
    built(ig.activation(name), torch.float32, tmp_path, STRICT)


def test_a_type_that_c_does_not_store_is_refused():
    with pytest.raises(ig.BackendError, match="C source stores"):
        ig.activation("relu").source("c", torch.int32)


def test_parameters_that_c_cannot_name_stay_apart(tmp_path):
    values = {"int": 2.0, "int_": 3.0, "param0": 4.0, "NAN": 5.0, "u1": 6.0, "true": 7.0}
    params = {k: ig.Param(v) for k, v in values.items()}
    text = "int*x + int_*x*x + param0*exp(-x*x) + NAN*sin(x) + u1*NAN*cos(x) + true*abs(x)"
    act = ig.derive(ig.Spec(name="words", function=f"{text} - u1*NAN - param0", params=params))
    x = torch.linspace(-2, 2, 41)
    code = built(act, torch.float32, tmp_path, STRICT)
    y, _, _ = ran(code, act, x, values, torch.ones_like(x))
    want = act(x.double(), impl="reference").float()
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(act(x, impl="c"), want, rtol=1e-5, atol=1e-5)
