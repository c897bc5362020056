"""Generated Triton kernels in Triton's interpreter: values, gradients, shapes, modes, source."""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
import textwrap
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import integrand as ig
from integrand.errors import BackendError
from integrand.kernels import ops, reference, register
from integrand.kernels.triton_print import Module

pytest.importorskip("triton")

from integrand.kernels import triton as backend

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(), (0,), (1,), (37,), (3, 1023), (2, 7, 256), (0, 8)]
# rows with a table, in fp64, with exp alone, with a power, with sin, with erf, without calls
ROWS = ("xielu", "integral_gelu", "gelu_tanh", "silu", "xiprelup", "sine", "gelu", "relu2", "mish")
CERTIFIED = [(name, torch.bfloat16) for name in ROWS if name not in ("xiprelup", "mish")]
CERTIFIED += [(name, torch.float16) for name in ("xielu", "silu", "relu2", "mish")]
VALUES = (0.75, 0.875, 0.5)


@cache
def program(name: str = "xielu") -> ig.derivation.program.Program:
    return ig.activation(name).program


@cache
def kernel(dtype: torch.dtype, name: str = "xielu") -> backend.Kernel:
    return backend.load(program(name), dtype)


def parameters(shape: tuple[int, ...] = (1,), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    spread = torch.rand(shape, generator=generator, dtype=dtype) / 4
    return [v + spread for v in VALUES]


def samples(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def wide(x: Tensor, dout: Tensor, params: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, dx and the terms of the parameters' gradients, in fp64."""
    y, slope, *partials = reference.run(
        program(),
        x.double(),
        [p.double() for p in params],
        ["f", "df", *(f"d_{p}" for p in program().params)],
    )
    dout = dout.double()
    return y, dout * slope, [dout * p for p in partials]


def assert_close(got: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Within the rounding to storage and a few roundings of the computation."""
    assert got.dtype == dtype and got.shape == exact.shape
    computed = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    allowed = torch.finfo(dtype).eps / 2 + 16 * computed
    assert torch.all((got.double() - exact).abs() <= allowed * exact.abs() + 16 * computed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_fp64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, dout, params = samples(shape, dtype), samples(shape, dtype, 1), parameters()
    y, dx, terms = wide(x, dout, params)
    assert_close(kernel(dtype).forward(x, params), y.expand(shape), dtype)
    got, gradients = kernel(dtype).backward(x, dout, params)
    assert_close(got, dx.expand(shape), dtype)
    for p, g, term in zip(params, gradients, terms, strict=True):
        assert g is not None and g.shape == p.shape and g.dtype == p.dtype
        assert abs(g.double().sum() - term.sum()) <= 1e-5 * term.abs().sum()


def test_backward_gives_the_result_again() -> None:
    x, up, dout = (samples((3, 700), torch.bfloat16, seed) for seed in range(3))
    k, params, y = kernel(x.dtype), parameters(), torch.empty_like(x)
    plain, kept = k.backward(x, dout, params), k.backward(x, dout, params, y=y)
    assert torch.equal(y, k.forward(x, params))
    assert torch.equal(plain[0], kept[0]) and all(map(torch.equal, plain[1], kept[1]))
    k.backward_gated(x, up, dout, params, y=y)
    assert torch.equal(y, k.forward_gated(x, up, params))


@pytest.mark.parametrize("shape", [(40,), (3, 1, 1), (3, 1, 40), (1, 9, 1), (9, 40)], ids=str)
def test_parameters_may_vary_along_dims(shape: tuple[int, ...]) -> None:
    x, dout = samples((3, 9, 40), torch.float32), samples((3, 9, 40), torch.float32, 1)
    params = [*parameters(shape)[:2], torch.tensor([0.5])]
    y, dx, terms = wide(x, dout, params)
    assert_close(kernel(x.dtype).forward(x, params), y, x.dtype)
    got, gradients = kernel(x.dtype).backward(x, dout, params)
    assert_close(got, dx, x.dtype)
    for p, g, term in zip(params, gradients, terms, strict=True):
        assert g is not None and g.shape == p.shape
        size, total = term.abs().sum_to_size(p.shape), term.sum_to_size(p.shape)
        assert torch.all((g.double() - total).abs() <= 1e-5 * size)


def test_a_parameter_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BackendError, match=r"alpha_p must have one element or broadcast .*\(4,\)"):
        kernel(torch.float32).forward(torch.zeros(2, 3), [torch.ones(4), *parameters()[1:]])


@pytest.mark.parametrize("params", [parameters(), parameters((6,))], ids=["one", "channels"])
def test_layouts_of_x_and_dout_may_differ(params: list[Tensor]) -> None:
    base = samples((2, 3, 6), torch.float32)
    views = [base, base.transpose(0, 2).contiguous().transpose(0, 2), base[:1].expand(2, 3, 6)]
    half = torch.cat([base, base], dim=-1)[..., :6]
    step = torch.stack([base, base], dim=1)[:, 0]
    dout = samples(base.shape, torch.float32, 1)
    for x in (*views, half, step):
        y, dx, _ = wide(x, dout, params)
        for g in (dout, dout.transpose(0, 1).contiguous().transpose(0, 1)):
            assert_close(kernel(x.dtype).forward(x, params), y, x.dtype)
            assert_close(kernel(x.dtype).backward(x, g, params)[0], dx, x.dtype)
    assert kernel(base.dtype).forward(views[1], parameters()).stride() == views[1].stride()


def test_only_needed_gradients_are_made() -> None:
    x = samples((50,), torch.float32)
    _, gradients = kernel(x.dtype).backward(x, x, parameters(), [True, False, True])
    full = kernel(x.dtype).backward(x, x, parameters())[1]
    assert gradients[1] is None and full[0] is not None and full[2] is not None
    assert gradients[0] is not None and torch.equal(gradients[0], full[0])
    assert kernel(x.dtype).backward(x, x, parameters(), False)[1] == []


def test_sums_keep_their_accuracy_and_bits_when_they_are_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # few, small programs: every level of the summation is used
    monkeypatch.setattr(backend, "SPLITS", 3)
    monkeypatch.setattr(backend, "HELD", 8)
    k = backend.load(program(), torch.bfloat16)
    k.backward_blocks = backend.Blocks(64)
    x = samples((3 * 64 * 40,), torch.bfloat16)
    dout = samples(x.shape, x.dtype, 1).abs()
    first = k.backward(x, dout, parameters())[1]
    again = k.backward(x, dout, parameters())[1]
    for g, h, term in zip(first, again, wide(x, dout, parameters())[2], strict=True):
        assert g is not None and h is not None and torch.equal(g, h)
        assert abs(g.double().sum() - term.sum()) <= 2e-6 * term.abs().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1,), (40,), (3, 1, 1)], ids=str)
def test_gated_forms_round_once(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate, up, dout = (samples((3, 9, 40), dtype, seed) for seed in range(3))
    params = parameters(shape)
    y, dgate, terms = wide(gate, dout.double() * up.double(), params)
    assert_close(kernel(dtype).forward_gated(gate, up, params), y * up.double(), dtype)
    got, dup, gradients = kernel(dtype).backward_gated(gate, up, dout, params)
    assert_close(got, dgate, dtype)
    assert_close(dup, dout.double() * y, dtype)
    for p, g, term in zip(params, gradients, terms, strict=True):
        assert g is not None
        error = (g.double() - term.sum_to_size(p.shape)).abs()
        assert torch.all(error <= 1e-5 * term.abs().sum_to_size(p.shape))


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    # the interpreter takes its time per program, not per element
    tile = backend._Layout.tile
    monkeypatch.setattr(backend._Layout, "tile", lambda layout, n: tile(layout, 8 * n))


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(("name", "dtype"), CERTIFIED, ids=lambda v: str(v).removeprefix("torch."))
def test_every_half_precision_input_is_certified(name: str, dtype: torch.dtype) -> None:
    cert = ig.certify(ig.activation(name), dtype, impl="triton", thorough=False)
    assert cert.ok, cert.to_dict()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_powers_are_those_of_the_reference(dtype: torch.dtype) -> None:
    params = [torch.tensor([v]) for v in (0.8, 0.7, 2.5, 0.5)]
    x = torch.cat([samples((300,), dtype), torch.tensor([0.0, 1e-30, -1e-30, 30.0], dtype=dtype)])
    got = kernel(dtype, "xiprelup").forward(x, params)
    (exact,) = reference.run(program("xiprelup"), x.double(), [p.double() for p in params], ["f"])
    assert_close(got, exact, dtype)


@pytest.mark.usefixtures("few_programs")
def test_bf16_survives_an_exp2_with_the_error_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # ex2.approx.ftz.f32: relative error 2^-22, denormal results are 0
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    exact = InterpreterBuilder.create_exp2
    signs = np.random.default_rng(0)

    def rough(self: InterpreterBuilder, arg: TensorHandle) -> TensorHandle:
        result = exact(self, arg)
        error = np.float32(2.0**-22) * signs.choice([-1, 1], result.data.shape)
        data = (result.data * (1 + error)).astype(np.float32)
        return TensorHandle(np.where(data < 2.0**-126, np.float32(0), data), result.dtype)

    monkeypatch.setattr(InterpreterBuilder, "create_exp2", rough)
    for name in ("xielu", "silu"):
        cert = ig.certify(ig.activation(name), torch.bfloat16, impl="triton", thorough=False)
        assert cert.ok, cert.to_dict()


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("name", ["xielu", "integral_gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_wide_storage_is_certified(name: str, dtype: torch.dtype) -> None:
    cert = ig.certify(ig.activation(name), dtype, impl="triton", thorough=False)
    assert cert.ok, cert.to_dict()


_PROBE = """

@triton.jit
def probe(out_ptr, step, groups, inner, chunks, GROUPED: tl.constexpr, EVEN: tl.constexpr):
    g = tl.arange(0, 2)
    offsets, mask = tile(step, g, groups, inner, chunks, GROUPED, EVEN, 4)
    last = tl.max(tl.max(tl.where(mask, offsets, -1), axis=1), axis=0)
    tl.store(out_ptr, last.to(tl.int64))
"""


def test_offsets_are_64_bit() -> None:
    module = backend.imported(kernel(torch.bfloat16).printed.text() + _PROBE)
    out = torch.zeros(1, dtype=torch.int64)
    # tile 2^29 + 1 of single values; row 2^20 of 2 groups of 5000; both are beyond 2^31
    for even in (False, True):
        module.probe[(1,)](out, 2**29 + 1, 1, 2**40, 2**38, GROUPED=False, EVEN=even)
        assert out.item() == (2**29 + 1) * 4 + 3
    module.probe[(1,)](out, 2**20 * 1250 + 7, 2, 5000, 1250, GROUPED=True, EVEN=True)
    assert out.item() == (2**20 * 2 + 1) * 5000 + 7 * 4 + 3


def test_it_runs_behind_autograd_compile_and_a_second_derivative() -> None:
    act = ig.activation("xielu")
    x = samples((2, 3), torch.float64).requires_grad_()
    assert x.min() < 0 < x.max()
    alpha = torch.tensor([0.75], dtype=torch.float64, requires_grad=True)

    def f(x: Tensor, alpha: Tensor) -> Tensor:
        return act(x, impl="triton", alpha_p=alpha)

    torch.autograd.gradcheck(f, (x, alpha))
    torch.autograd.gradgradcheck(f, (x, alpha))
    expected = act(x, impl="reference", alpha_p=alpha)
    torch.testing.assert_close(f(x, alpha), expected)
    got = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")(x, alpha)
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected.square().sum(), (x, alpha))
    for g, w in zip(torch.autograd.grad(got.square().sum(), (x, alpha)), wanted, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("shape", [(1,), (5,)], ids=["one", "channels"])
def test_the_operators_pass_torch_s_own_check(shape: tuple[int, ...]) -> None:
    register(program())
    key, params = ops.TRITON + program().digest, parameters(shape)
    for x in (samples((4, 5), torch.float32), samples((5, 4), torch.float32).T):
        torch.library.opcheck(torch.ops.integrand.forward.default, (x, params, key))
        args = (x, x.contiguous(), params, key, True)
        torch.library.opcheck(torch.ops.integrand.backward.default, args)


def test_auto_says_once_why_it_does_not_take_triton(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend.chosen.cache_clear()
    try:
        monkeypatch.setattr(backend, "available", lambda device: f"no {device.type} today")
        with caplog.at_level(logging.WARNING, logger="integrand"):
            assert not backend.chosen("cuda") and not backend.chosen("cuda")
        assert [r.getMessage() for r in caplog.records] == [
            "no Triton kernel, using the compiled reference: no cuda today"
        ]
        monkeypatch.setattr(backend, "available", lambda device: None)
        assert backend.chosen("xpu")
        with caplog.at_level(logging.WARNING, logger="integrand"):
            assert backend.chosen("xpu")
        assert len(caplog.records) == 1
    finally:
        backend.chosen.cache_clear()


def test_without_triton_or_a_gpu_the_reason_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    with pytest.raises(BackendError, match=r"runs on a GPU's tensors, got a CPU tensor; .*'c'"):
        ig.activation("relu2")(torch.ones(2), impl="triton")
    assert "got one on meta" in str(backend.available(meta))
    monkeypatch.undo()
    backend.interpreted.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    try:
        assert "needs the package triton" in str(backend.available(cpu))
    finally:
        backend.interpreted.cache_clear()


def test_an_altered_file_is_written_again() -> None:
    text = kernel(torch.float32).printed.text()
    name = kernel(torch.float32).module.__name__.rpartition(".")[2]
    path = ig.cache.directory() / f"{name}.py"
    assert path.read_text() == text
    path.write_text(text + "\nraise SystemExit\n")
    sys.modules.pop(name)
    assert backend.imported(text).forward is not None
    assert path.read_text() == text


def test_the_source_is_ruff_clean(tmp_path: Path) -> None:
    for name in ROWS:
        for dtype in (torch.bfloat16, torch.float64):
            text = backend.source(program(name), dtype, f"{name}: f(x) = ...")
            (tmp_path / f"{name}_{str(dtype)[6:]}.py").write_text(text)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "100"]
    command += ["--select", "E,F,I,UP,B,SIM,C4", "--ignore", "SIM108", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout


def test_the_source_says_what_it_is_and_takes_no_python_numbers() -> None:
    text = backend.source(
        program(), torch.bfloat16, f"xielu: f(x) = {ig.activation('xielu').formula}"
    )
    assert text.startswith('"""xielu: f(x) = alpha_p*x**2')
    assert "alpha_p = value(alpha_p_ptr" in text
    # numbers that reach a kernel are sizes; parameters are read from memory
    arguments = ast.parse(text).body
    (forward,) = [f for f in arguments if isinstance(f, ast.FunctionDef) and f.name == "forward"]
    names = [a.arg for a in forward.args.args]
    sizes = ["groups", "inner", "chunks", "tiles"]
    assert all(n.endswith("_ptr") or n in sizes or n.isupper() for n in names)


def test_parameter_names_that_the_template_uses_are_replaced() -> None:
    ops = (("x",), ("param", "mask"), ("mul", 0, 1))
    named = ig.derivation.program.Program(("mask",), ops, {"f": 2, "df": 1, "d_mask": 0})
    k = backend.load(named, torch.float32)
    assert k.forward(torch.tensor([3.0]), [torch.tensor([2.0])]).item() == 6.0
    assert Module(named, torch.float32).names == ["mask_"]


def test_a_new_activation_has_its_source_in_half_a_second() -> None:
    slowest = 0.0
    for name in ROWS:
        start = time.perf_counter()
        backend.load(program(name), torch.float16)
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest <= 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is packaged for Linux")
def test_the_kernels_compile_for_a_gpu_and_move_16_bytes_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "generated.py").write_text(backend.source(program(), torch.bfloat16))
    (tmp_path / "compile.py").write_text(_COMPILE)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "compile.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # x and dout in, dx out; the parameters are single words
    assert done.stdout.split() == 2 * ["forward", "1", "1"] + 2 * ["backward", "2", "1"]


_COMPILE = textwrap.dedent(
    """
    import re

    import generated
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sizes = {"GATED": False, "GROUPED": False, "KEEP": False, "NEEDED": 3, "RUN": 16,
             "STAGES": 1, "BLOCK_G": 1, "BLOCK_I": 1024, "groups": 1, "tiles": 1}
    functions = (generated.forward, generated.backward)
    for function, even in ((f, e) for f in functions for e in (False, True)):
        sizes["EVEN"] = even
        signature, constants, aligned = {}, {}, {}
        for k, name in enumerate(function.arg_names):
            if name in sizes:
                signature[name], constants[(k,)] = "constexpr", sizes[name]
            elif name.endswith("_ptr"):
                half = name in ("x_ptr", "up_ptr", "dout_ptr", "y_ptr", "dx_ptr", "dup_ptr")
                signature[name] = "*bf16" if half else "*fp32"
                aligned[(k,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "i32"
                aligned[(k,)] = [["tt.divisibility", 16]]
        source = ASTSource(function, signature, constants, aligned)
        ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
        print(function.__name__, len(re.findall(r"ld\\.global\\S*\\.v4\\.b32", ptx)),
              len(re.findall(r"st\\.global\\S*\\.v4\\.b32", ptx)))
    """
)
