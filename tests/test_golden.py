"""The golden vectors are exact, and tell xIELU from what is taken for it."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

import integrand as ig

GOLDEN = Path(__file__).parents[1] / "golden"
ALL = ("float64", "float32", "bfloat16", "float16")


def _load(name):
    spec = importlib.util.spec_from_file_location(f"golden_{name}", GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate, check = _load("generate"), _load("check")


def test_the_file_is_what_the_generator_writes():
    assert generate.text() == (GOLDEN / "xielu.json").read_text(encoding="utf-8")


def test_f_is_the_integral_of_the_declared_gradient():
    for setting in json.loads((GOLDEN / "xielu.json").read_text())["settings"]:
        points = setting["points"]["float64"]
        params = setting["parameters"]
        with mpmath.workdps(40):
            p, n = (mpmath.mpf(params[k]["value_decimal"]) for k in ("alpha_p", "alpha_n"))

        def gradient(x, p=p, n=n):
            return 2 * p * x + 0.5 if x > 0 else n * mpmath.expm1(x) + 0.5

        with mpmath.workdps(40):
            for x, f, df in zip(
                points["x"], points["f_decimal"], points["df_decimal"], strict=True
            ):
                x = float.fromhex(x)
                if 1e-9 < abs(x) < 40:
                    parts = 1 + int(abs(x) / 4)
                    integral = mpmath.quad(gradient, mpmath.linspace(0, x, parts + 1))
                    scale = abs(x) * max(abs(gradient(x)), 0.5)
                    assert abs(integral - mpmath.mpf(f)) <= 1e-20 * scale, x
                    assert abs(gradient(x) - mpmath.mpf(df)) <= 1e-25 * max(1, abs(gradient(x))), x


def test_parameter_derivatives_are_those_of_f():
    raw = (-1.25, 0.75)
    for x in (-30.0, -1.0, -1e-3, 1e-3, 2.0):
        found = generate.exact(x, *raw)
        with mpmath.workdps(60):
            step = mpmath.mpf(10) ** -15
            for name, moved in (("p", (1, 0)), ("n", (0, 1))):
                up, down = (
                    generate.exact(x, *(a + s * step * m for a, m in zip(raw, moved, strict=True)))
                    for s in (1, -1)
                )
                slope = (up["f"] - down["f"]) / (2 * step)
                assert abs(slope - found[f"d_raw_alpha_{name}"]) <= 1e-20 * (1 + abs(slope))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_values_are_rounded_once(dtype):
    name = str(dtype).removeprefix("torch.")
    for setting in check.golden()["settings"]:
        points = setting["points"][name]
        for output in ("f", "df"):
            exact, once = (
                torch.tensor([float.fromhex(v) for v in points[k]], dtype=torch.float64)
                for k in (output, f"{output}_rounded")
            )
            twice = exact.to(dtype).double()
            differ = ~(twice.eq(once) | (twice.isnan() & once.isnan()))
            # torch rounds to fp32 on the way, which makes ties of what are none
            assert ((exact - once).abs() <= (exact - twice).abs())[differ].all()
            assert int(differ.sum()) <= 2


@pytest.mark.parametrize("dtype", ALL)
def test_integrand_is_right(dtype):
    act = ig.activation("xielu")
    result = check.check(lambda x, p, n, b: act(x, alpha_p=p, alpha_n=n, beta=b), dtype=dtype)
    assert result.ok, result


def test_the_module_and_the_reference_are_right():
    act = ig.activation("xielu")
    result = check.check(lambda: act.module(impl="reference"), "bfloat16", parameters="module")
    assert result.ok, result


def stable(x, alpha_p, alpha_n, beta):
    """A plain numpy xIELU with a series near 0, and its derivatives."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        t = x.astype(np.float64)
        low = np.minimum(t, 0)
        series = sum(low**k / math.factorial(k) for k in range(2, 14))
        h = np.where(low > -0.3, series, np.expm1(low) - low)
        h = np.where(t == -np.inf, np.inf, h)
        f = np.where(t > 0, alpha_p * t * t + beta * t, alpha_n * h + beta * np.maximum(t, -1e300))
        df = np.where(t > 0, 2 * alpha_p * t + beta, alpha_n * np.expm1(low) + beta)
        f, df = (np.where(np.isnan(t), np.nan, v).astype(x.dtype) for v in (f, df))
        return f, df, np.where(t > 0, t * t, 0), h


def test_a_plain_implementation_elsewhere_is_right():
    for dtype in ("float32", "float16"):
        result = check.check(stable, dtype, framework="numpy")
        assert result.ok, result


def clamped(x, alpha_p, alpha_n, beta):
    eps = torch.tensor(-1e-6, dtype=x.dtype)
    left = (torch.expm1(torch.minimum(x, eps)) - x) * alpha_n + beta * x
    return torch.where(x > 0, alpha_p * x * x + beta * x, left)


def exponential(x, alpha_p, alpha_n, beta):
    left = alpha_n * (torch.exp(x) - 1 - x) + beta * x
    return torch.where(x > 0, alpha_p * x * x + beta * x, left)


# name -> function, the output that gives it away, a finite input where it does
IMPOSTORS = {
    "clamped at -1e-6": (clamped, "df", lambda x: -1e-6 < x <= 0),
    "exp(x) - 1": (exponential, "f", lambda x: -0.1 < x < 0),
    "swish and a square": (
        lambda x, p, n, b: x * torch.sigmoid(b * x) + n * torch.clamp(x, max=0) ** 2,
        *("f", lambda x: x == 1),
    ),
    "tanh(clamp(x)) x": (
        lambda x, p, n, b: torch.tanh(torch.clamp(x, p.detach(), 1 + n.detach())) * x,
        *("f", lambda x: x == 1),
    ),
    "raw taken for values": (
        lambda x, p, n, b: clamped(x, p.expm1().log(), (n - b).expm1().log(), b),
        *("f", lambda x: x == -1),
    ),
    "alpha_n without beta": (
        lambda x, p, n, b: ig.activation("xielu")(x, alpha_p=p, alpha_n=n - b, beta=b),
        *("f", lambda x: x == -1),
    ),
    "no backward for alpha_p": (
        lambda x, p, n, b: ig.activation("xielu")(x, alpha_p=p.detach(), alpha_n=n, beta=b),
        *("d_alpha_p", lambda x: x == 1),
    ),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_impostors_are_caught_where_they_differ(name):
    function, output, where = IMPOSTORS[name]
    found = check.check(function, "float32")
    caught = {w.setting for w in found.wrong if w.output == output and where(w.x)}
    assert caught == {"initial", "small", "large", "extreme"}, found


def test_transformers_own_module_has_the_wrong_slope_at_zero():
    activations = pytest.importorskip("transformers.activations")
    found = check.check(
        lambda: activations.XIELUActivation(dtype=torch.float64), "float64", parameters="module"
    )
    at_zero = {w.setting: w.got for w in found.wrong if w.output == "df" and w.x == 0}
    assert at_zero["initial"] == pytest.approx(-0.3, abs=1e-6)
    assert at_zero["extreme"] == pytest.approx(-40.75, abs=1e-4)


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """The checker's command line in this process, on `source` as mine.py: (status, out, err)."""

    def run(source, *args):
        (tmp_path / "mine.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["check.py", *args])
        monkeypatch.setattr(sys, "path", [*sys.path])
        try:
            return check.main(), *capsys.readouterr()
        finally:
            sys.modules.pop("mine", None)

    return run


MODULE = """
import torch
class Mine(torch.nn.Module):
    def forward(self, x):
        return x
made = Mine()
def make():
    return Mine()
def function(x, alpha_p, alpha_n, beta):
    return x
number = 3
"""
MISUSED = {
    ("mine:Mine",): "--parameters module",
    ("mine:made",): "--parameters module",
    ("mine:make",): "--parameters module",
    ("mine:make", "--parameters", "raw"): "--parameters module",
    ("mine:make", "--framework", "numpy"): "--parameters module",
    ("mine:Mine", "--framework", "numpy", "--parameters", "module"): "--framework torch",
    ("mine:made", "--parameters", "module"): "a function without arguments",
    ("mine:make", "--parameters", "module"): "called alpha_p and alpha_n",
    ("mine:function", "--parameters", "module"): "--parameters values or raw",
    ("mine:number",): "MODULE:FUNCTION",
    ("mine",): "MODULE:FUNCTION",
}


@pytest.mark.parametrize("args", MISUSED, ids=" ".join)
def test_what_does_not_fit_the_flags_is_one_sentence(args, script):
    status, out, err = script(MODULE, *args)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert MISUSED[args] in err


def test_the_readmes_module_is_checked(script):
    pytest.importorskip("transformers")
    text = (GOLDEN / "README.md").read_text(encoding="utf-8")
    source = text.partition("```python\n")[2].partition("```")[0]
    command = next(line for line in text.splitlines() if "check.py mine:make" in line)
    status, out, err = script(source, *command.split()[2:])
    assert status == 1, err
    assert "initial: df at x = -inf is nan" in out


def test_right_says_what_was_not_checked():
    value = check.check(lambda *args: stable(*args)[0], framework="numpy")
    assert value.ok and str(value).startswith("f right: ")
    assert str(value).endswith("df, d_alpha_p, d_alpha_n not returned, and not checked")
    some = check.check(lambda *args: (*stable(*args)[:2], None), framework="numpy")
    assert some.checked == ("f", "df") and some.unchecked == ("d_alpha_p", "d_alpha_n")
    assert str(check.check(stable, framework="numpy")).startswith("right: ")
    none = check.check(lambda *args: (None,), framework="numpy")
    assert not none.ok and "no values were returned" in str(none)


def test_the_checker_is_a_script_with_an_exit_status(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def wrong(x, alpha_p, alpha_n, beta):\n"
        "    return x * x * alpha_p + 0 * alpha_n\n"
    )
    done = subprocess.run(
        [sys.executable, str(GOLDEN / "check.py"), "mine:wrong", "--dtype", "float32"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "float32: WRONG" in done.stdout and "initial: f at x =" in done.stdout
