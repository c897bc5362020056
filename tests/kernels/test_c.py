"""Generated C kernels: values, gradients, shapes, layouts, determinism, cost of being loaded."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from integrand.derivation.numeric import evaluate_with_bound
from integrand.derivation.program import Op, Program
from integrand.derivation.table import Table
from integrand.errors import BackendError
from integrand.kernels import apply, c, c_build, dispatch, ops, register
from integrand.kernels.c_print import source

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(), (0,), (1,), (37,), (3, 1023), (2, 7, 256), (0, 8), (130, 259)]
VALUES = {"alpha_p": 0.75, "alpha_n": 0.875, "beta": 0.5}


def xielu(wide: bool = False) -> Program:
    ops: tuple[Op, ...] = (
        *(("x",), ("param", "alpha_p"), ("param", "alpha_n"), ("param", "beta")),
        *(("const", "0"), ("const", "2"), ("lt", 4, 0), ("mul", 0, 0)),
        *(("mul", 1, 7), ("mul", 3, 0), ("add", 8, 9), ("select", 6, 4, 0)),
        *(("call", "expm1mx", 11), ("mul", 2, 12), ("add", 13, 9), ("select", 6, 10, 14)),
        *(("mul", 5, 1), ("mul", 16, 0), ("add", 17, 3), ("call", "expm1", 11)),
        *(("mul", 2, 19), ("add", 20, 3), ("select", 6, 18, 21)),
        *(("select", 6, 7, 4), ("select", 6, 4, 12)),
    )
    outputs = {"f": 15, "df": 22, "d_alpha_p": 23, "d_alpha_n": 24, "d_beta": 0}
    return Program(tuple(VALUES), ops, outputs, wide=wide)


@cache
def kernel(dtype: torch.dtype, wide: bool = False) -> c.Kernel:
    return c.load(xielu(wide), dtype)


def parameters() -> list[Tensor]:
    return [torch.tensor([v]) for v in VALUES.values()]


def exact(x: Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    (value,), (bound,) = evaluate_with_bound(xielu(), x.double().numpy(), VALUES, [name])
    return np.broadcast_to(value, x.shape), np.broadcast_to(bound, x.shape)


def spacing(value: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """One unit in the last place."""
    info = torch.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(value), info.smallest_normal)))
    return info.eps * 2.0**exponent


def samples(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 3).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_match_the_bounded_evaluation(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, dout = samples(shape, dtype), torch.ones(shape, dtype=dtype)
    y = kernel(dtype).forward(x, parameters())
    dx, dparams = kernel(dtype).backward(x, dout, parameters())
    assert y.shape == dx.shape == x.shape and y.dtype == dx.dtype == dtype
    for got, name in ((y, "f"), (dx, "df")):
        value, bound = exact(x, name)
        # 4 ulp of the largest term: the terms of f and f' cancel at their root
        terms = np.abs(VALUES["beta"] * x.double().numpy()) if name == "f" else 0.5
        unit = torch.float64 if dtype == torch.float64 else torch.float32
        allowed = 4 * spacing(np.maximum(np.abs(value), terms), unit) + bound
        if dtype in (torch.bfloat16, torch.float16):
            allowed = allowed + spacing(value, dtype)
        assert np.all(np.abs(got.double().numpy() - value) <= allowed)
    for got, name in zip(dparams, VALUES, strict=True):
        value, _ = exact(x, f"d_{name}")
        assert got.shape == (1,)
        assert abs(got.item() - value.sum()) <= 1e-5 * np.abs(value).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_every_half_pattern_is_within_one_ulp(dtype: torch.dtype, wide: bool) -> None:
    x = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[torch.isfinite(x)]
    y = kernel(dtype, wide).forward(x, parameters())
    dx, _ = kernel(dtype, wide).backward(x, torch.ones_like(x), parameters(), need_params=False)
    top = torch.finfo(dtype).max
    for got, name in ((y, "f"), (dx, "df")):
        value, bound = exact(x, name)
        largest = np.abs(VALUES["beta"] * x.double().numpy()) if name == "f" else 0.5
        allowed = np.maximum(spacing(value, dtype), 2.0**-22 * largest) + bound
        got_wide = got.double().numpy()
        # x^2 may overflow before alpha_p x^2 does: infinite beyond half the largest finite value
        infinite = np.isinf(got_wide) & (np.abs(value) > top / 2)
        assert np.all((np.abs(got_wide - value) <= allowed) | infinite)


def test_nan_stays_nan_and_zero_stays_zero() -> None:
    for dtype in DTYPES:
        x = torch.tensor([float("nan"), 0.0, -0.0], dtype=dtype)
        y = kernel(dtype).forward(x, parameters())
        dx, _ = kernel(dtype).backward(x, torch.ones_like(x), parameters())
        assert y[0].isnan() and dx[0].isnan()
        assert y[1:].tolist() == [0.0, 0.0] and dx[1:].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameter_gradients_are_bitwise_equal_for_any_number_of_threads(
    dtype: torch.dtype,
) -> None:
    x, dout = samples((517, 263), dtype), samples((517, 263), dtype).flip(0).contiguous()
    shapes = [parameters(), [p.expand(263).contiguous() for p in parameters()]]
    before = torch.get_num_threads()
    try:
        for values in shapes:
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                dx, dparams = kernel(dtype).backward(x, dout, values)
                results.append([dx, *dparams])
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 8, 64, 200])
def test_parameters_per_channel_act_along_the_last_dimension(
    channels: int, dtype: torch.dtype
) -> None:
    x, dout = samples((5, 7, channels), dtype), torch.ones(5, 7, channels, dtype=dtype)
    scale = torch.linspace(0.5, 2, channels)
    values = [0.75 * scale, 0.875 * scale, torch.tensor([0.5])]
    y = kernel(dtype).forward(x, values)
    dx, dparams = kernel(dtype).backward(x, dout, values)
    assert [d.shape for d in dparams] == [p.shape for p in values]
    for k in range(channels):
        column, ones = x[..., k].contiguous(), dout[..., k].contiguous()
        single = [v[k : k + 1] if v.numel() > 1 else v for v in values]
        assert torch.equal(y[..., k], kernel(dtype).forward(column, single))
        dx_k, dparams_k = kernel(dtype).backward(column, ones, single)
        assert torch.equal(dx[..., k], dx_k)
        if channels > 1:
            terms = column.double().square().sum()
            assert abs(dparams[0][k] - dparams_k[0][0]) <= 2e-5 * terms


def test_layouts_give_the_same_values() -> None:
    x = samples((6, 10, 12), torch.float32)
    wide = samples((6, 10, 24), torch.float32)
    k = kernel(torch.float32)
    for layout in (x.permute(2, 0, 1), x.transpose(0, 1), wide[..., ::2], wide[..., 5:17]):
        y = k.forward(layout, parameters())
        assert torch.equal(y, k.forward(layout.contiguous(), parameters()))
        dout = torch.ones(layout.shape).cumsum(0)
        dx, dparams = k.backward(layout, dout, parameters())
        dx_c, dparams_c = k.backward(layout.contiguous(), dout, parameters())
        assert torch.equal(dx, dx_c)
        value, _ = exact(layout, "d_alpha_p")
        for got in (dparams[0], dparams_c[0]):
            assert abs(got.item() - (value * dout.numpy()).sum()) <= 1e-5 * (value.sum() * 6)


def test_results_in_a_given_tensor() -> None:
    x = samples((100,), torch.float32)
    out = torch.full_like(x, torch.nan)
    assert kernel(torch.float32).forward(x, parameters(), out) is out
    assert torch.equal(out, kernel(torch.float32).forward(x, parameters()))


def test_a_table_agrees_with_numpy() -> None:
    square = Table(
        name="square",
        lo=-2,
        hi=1,
        split=1,
        near=((0.0, 0.25), (0.0, 0.25)),
        middle=tuple(
            tuple(
                (s * m * m, s * 2 * m * h, s * h * h)
                for octave in (0.25, 0.5, 1.0)
                for m, h in ((1.25 * octave, 0.25 * octave), (1.75 * octave, 0.25 * octave))
            )
            for s in (-1, 1)
        ),
        growth=((-1.0, 0.0, 0.5, 0.0), (1.0, 0.0, 0.0, 0.0)),
        far=((0.0,), (0.0,)),
    )
    program = Program((), (("x",), ("table", 0, 0)), {"f": 1, "df": 1}, tables=(square,))
    x = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.77, 1.9999, 2.0, 3.0, 1e9, -0.2, -1.2, -7.0, 1e200])
    x = torch.cat([x.double(), torch.tensor([torch.inf, -torch.inf, torch.nan]).double()])
    y = c.load(program, torch.float64).forward(x, []).numpy()
    (value,), (bound,) = evaluate_with_bound(program, x.numpy(), {}, ["f"])
    finite = np.isfinite(value)
    assert np.all(np.abs(y[finite] - value[finite]) <= bound[finite])
    np.testing.assert_array_equal(y[~finite], value[~finite])


WAVE = Program(
    ("a",),
    (
        *(("x",), ("param", "a"), ("mul", 0, 1), ("call", "sin", 2), ("call", "cos", 2)),
        *(("mul", 1, 4), ("mul", 0, 4)),
    ),
    {"f": 3, "df": 5, "d_a": 6},
    wide=True,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_sin_and_cos_are_right_at_every_size_of_the_argument(
    dtype: torch.dtype, channels: bool
) -> None:
    # beyond 1e6 the fast reduction gives way to the exact one, block by block
    x = samples((200, 3), dtype)
    x[50:53] = torch.tensor([1e5, -3e7, 1e30], dtype=dtype)
    x[120, 1], x[199, 2] = torch.inf, torch.nan
    # the exact product with 1.5 needs one more bit than x has
    params = [torch.full((3,) if channels else (1,), 1.5)]
    k = c.load(WAVE, dtype)
    y = k.forward(x, params)
    dx, (da,) = k.backward(x, torch.ones_like(x), params)
    finite = torch.isfinite(x)
    assert torch.equal(torch.isfinite(y), finite) and torch.equal(torch.isfinite(dx), finite)
    unit = torch.finfo(dtype).eps
    argument = 1.5 * x.double()
    for got, wanted in ((y, torch.sin(argument)), (dx, 1.5 * torch.cos(argument))):
        error = (got.double() - wanted).abs()[finite]
        assert torch.all(error <= 2 * unit * wanted.abs()[finite] + 1e-15)
    assert not torch.isfinite(da).all()
    clean = torch.where(finite, x, 0.0)
    _, (da,) = k.backward(clean, torch.ones_like(x), params)
    terms = clean.double() * torch.cos(1.5 * clean.double())
    assert abs(da.double().sum() - terms.sum()) <= 1e-5 * terms.abs().sum()


def test_a_program_without_parameters_or_x_compiles() -> None:
    program = Program((), (("x",), ("const", "0"), ("const", "1")), {"f": 0, "df": 2})
    k = c.load(program, torch.float32)
    x = samples((70,), torch.float32)
    assert torch.equal(k.forward(x, []), x)
    dx, dparams = k.backward(x, x, [])
    assert torch.equal(dx, x) and dparams == []


def test_the_source_is_readable_and_hoists_what_is_uniform() -> None:
    text = source(xielu(), torch.bfloat16, "xielu: f(x) = alpha_p*x^2 ... */")
    assert text.startswith("/* xielu: f(x) = alpha_p*x^2 ... * /")
    # 2 alpha_p does not depend on x: in the preamble, in double, not in the loop
    assert "const double v1 = 2.0 * number(params[0]);" in text
    assert "INLINE float expm1mx_32(float x) {" in text
    assert "return dout * " in text


@pytest.mark.parametrize("name", ["long", "größe"])
def test_parameter_names_that_c_cannot_have_are_replaced(name: str) -> None:
    ops: tuple[Op, ...] = (("x",), ("param", name), ("mul", 0, 1))
    program = Program((name,), ops, {"f": 2, "df": 1, f"d_{name}": 0})
    y = c.load(program, torch.float32).forward(torch.tensor([3.0]), [torch.tensor([2.0])])
    assert y.item() == 6.0


def test_what_a_kernel_cannot_run_is_refused() -> None:
    with pytest.raises(BackendError, match="int32"):
        c.load(xielu(), torch.int32)
    with pytest.raises(BackendError, match=r"float64 on cpu"):
        kernel(torch.float32).forward(torch.zeros(3, dtype=torch.float64), parameters())
    with pytest.raises(BackendError, match=r"alpha_p must have shape \(1,\) or \(4,\)"):
        wrong = [torch.ones(3), *parameters()[1:]]
        kernel(torch.float32).forward(torch.zeros(2, 4), wrong)
    with pytest.raises(BackendError, match="alpha_p, alpha_n, beta; got 1"):
        kernel(torch.float32).forward(torch.zeros(2), parameters()[:1])


def test_without_a_compiler_auto_steps_down_with_one_log_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caches = (c_build.compiler, ops.kernel, dispatch._c_kernel, dispatch._warn_once)
    program = xielu()
    register(program)
    x = torch.randn(7)
    values = [torch.tensor([v]) for v in (0.8, 0.8, 0.5)]
    expected = apply(program, x, values, "reference")
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    try:
        with caplog.at_level("WARNING", logger="integrand"):
            for dtype in (torch.float32, torch.float32, torch.bfloat16):
                apply(program, x.to(dtype), values)
            assert torch.equal(apply(program, x, values), expected)
        assert len(caplog.records) == 1
        with pytest.raises(BackendError, match="none of"):
            apply(program, x, values, "c")
    finally:
        for cached in caches:
            cached.cache_clear()


@pytest.mark.skipif("clang" in c_build.compiler()[1], reason="asks gcc for its report")
@pytest.mark.parametrize("form", ["plain", "channels", "gated"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("program", [xielu(), xielu(wide=True), WAVE], ids=["f", "wide", "wave"])
def test_the_loops_over_elements_vectorise(
    program: Program, dtype: torch.dtype, form: str, tmp_path: Path
) -> None:
    if form == "gated" and program is WAVE:
        pytest.skip("gated forms call the C library's sine, which is scalar")
    text = source(program, dtype, form=form)
    (tmp_path / "k.c").write_text(text)
    command = [c_build.compiler()[0], *c_build._flags(0), "-fopt-info-vec", "k.c", "-o", "k.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    loops = [i + 1 for i, line in enumerate(text.splitlines()) if "#pragma GCC ivdep" in line]
    # the last one, for dx alone, is not used per channel
    for line in loops[:2] if form == "channels" else loops:
        report = [f"k.c:{line + k}:" for k in (0, 1)]
        found = [r for r in done.stderr.splitlines() if "loop vectorized" in r]
        assert any(r.startswith(tuple(report)) for r in found), (line, found)


def test_loading_a_kernel_leaves_denormals_alone() -> None:
    kernel(torch.float32)
    # in this process and in the threads of the kernel
    assert 1e-310 * 0.5 != 0
    x = torch.full((100_000,), 1e-42)
    assert torch.all(kernel(torch.float32).forward(x, parameters()) == torch.tensor(5e-43))


def test_a_second_load_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(torch.float32)

    def compile_again(tool: str, text: str) -> bytes:
        raise AssertionError("compiled although the cache has it")

    monkeypatch.setattr(c_build, "_compile", compile_again)
    assert c.load(xielu(), torch.float32).forward(torch.ones(1), parameters()).item() == 1.25


def test_a_parameter_gradient_beyond_fp32_is_infinite() -> None:
    x = torch.full((4,), 1e30)
    _, gradients = kernel(torch.float32).backward(x, torch.ones_like(x), parameters())
    # d f / d alpha_p is x^2
    assert gradients[0].item() == float("inf") and gradients[2].isfinite()
