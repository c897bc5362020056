"""Checks any xIELU implementation against the exact values of xielu.json.

    python golden/check.py mypackage.mymodule:my_function --dtype float32
    python golden/check.py mypackage.mymodule:make_module --parameters module

    from check import check                      # or from Python, with golden/ on the path
    print(check(my_function, dtype="bfloat16"))

What is checked is a function of torch tensors, `f(x, alpha_p, alpha_n, beta) -> y`, of the
parameters' values (`--parameters values`, the default) or of raw ones (`raw`); or `module`: a
function without arguments that makes an nn.Module whose raw parameters are called alpha_p and
alpha_n. Derivatives are those of autograd. With `--framework numpy` it is a function of numpy
arrays that returns y, or (y, df, d_alpha_p, d_alpha_n) element by element, None for what it lacks.

Exit status 0: all right; 1: something is wrong, the worst input of each output is printed; 2: what
is named cannot be checked so.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUTS = ("f", "df", "d_alpha_p", "d_alpha_n", "d_raw_alpha_p", "d_raw_alpha_n")
# per format: significand bits, smallest normal exponent, largest exponent
FORMATS = {
    "float64": (53, -1022, 1023),
    "float32": (24, -126, 127),
    "bfloat16": (8, -126, 127),
    "float16": (11, -14, 15),
}
# allowed: fp32 and fp64, in units of the last place of the sum of absolute terms; the parameters
# themselves may have been rounded once
WIDE_ULPS = 8.0
# in half precision one ulp of the exact value; where terms cancel, what computing in fp32 leaves
HALF_ULPS, HALF_TERMS = 1.0, 2.0**-20
# of each element's contribution to a parameter's gradient, where the gradient is fp32
GRADIENT = 1e-5


@dataclass(frozen=True)
class Wrong:
    """One wrong output: in `errors` times the allowed error."""

    setting: str
    output: str
    x: float
    got: float
    expected: float
    errors: float

    def __str__(self) -> str:
        return (
            f"{self.setting}: {self.output} at x = {self.x!r} is {self.got!r}, exactly "
            f"{self.expected!r} ({self.errors:.3g} times the allowed error)"
        )


class Misuse(TypeError):
    """What was given cannot be checked so: one sentence that names the flag."""


@dataclass(frozen=True)
class Result:
    """How many outputs were compared, those that are wrong, the worst first, and the names of
    those that were, and were not, there to compare."""

    compared: int
    wrong: tuple[Wrong, ...]
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.compared > 0 and not self.wrong

    def __str__(self) -> str:
        if self.ok:
            if not self.unchecked:
                return f"right: {self.compared} values compared"
            return (
                f"{', '.join(self.checked)} right: {self.compared} values compared; "
                f"{', '.join(self.unchecked)} not returned, and not checked"
            )
        if not self.compared:
            return "WRONG: no values were returned to compare"
        # what happens at infinity must not hide what happens elsewhere
        worst = {(w.setting, w.output, math.isfinite(w.x)): w for w in reversed(self.wrong)}
        lines = "\n".join(str(w) for w in sorted(worst.values(), key=lambda w: -w.errors))
        return f"WRONG: {len(self.wrong)} of {self.compared} values\n{lines}"


def golden() -> dict[str, Any]:
    """xielu.json, which lies beside this file."""
    return json.loads((Path(__file__).parent / "xielu.json").read_text(encoding="utf-8"))


def check(
    implementation: Callable[..., Any],
    dtype: str = "float32",
    *,
    parameters: str = "values",
    framework: str = "torch",
) -> Result:
    """Compare an implementation with the exact values.

    Args:
        implementation: see above.
        dtype: of x: "float64", "float32", "bfloat16", "float16".
        parameters: what the function takes: "values", "raw", or "module".
        framework: "torch" or "numpy".

    Raises:
        Misuse: a module where a function is due, or the other way round.
    """
    _check_kind(implementation, parameters, framework)
    compared, wrong = 0, []
    outputs: dict[str, None] = {}
    for setting in golden()["settings"]:
        points = setting["points"]["float64" if dtype == "float32" else dtype]
        rows = [i for i, x in enumerate(points["x"]) if _fits(float.fromhex(x), dtype)]
        exact = {k: [_number(points[k][i]) for i in rows] for k in ("x", *OUTPUTS)}
        run = _torch if framework == "torch" else _numpy
        for output, got, slack in run(implementation, exact["x"], setting, dtype, parameters):
            outputs[output] = None
            for x, have, want in zip(exact["x"], got, exact[output], strict=True):
                if want is None or have is None:
                    continue
                compared += 1
                errors = _errors(output, x, have, want, setting, dtype, slack)
                if errors > 1:
                    wrong.append(Wrong(setting["name"], output, x, have, want, errors))
    unchecked = tuple(name for name in _names(parameters) if name not in outputs)
    worst = tuple(sorted(wrong, key=lambda w: -w.errors))
    return Result(compared, worst, tuple(outputs), unchecked)


def _names(parameters: str) -> tuple[str, ...]:
    raw = "" if parameters == "values" else "raw_"
    return ("f", "df", f"d_{raw}alpha_p", f"d_{raw}alpha_n")


def _check_kind(implementation: Any, parameters: str, framework: str) -> None:
    """Refuses what the flags do not fit, which would otherwise end deep inside a call."""
    name = getattr(implementation, "__name__", type(implementation).__name__)
    # told by its methods, since numpy's users need no torch
    is_module = hasattr(implementation, "state_dict") and hasattr(implementation, "forward")
    if parameters == "module":
        if framework != "torch":
            raise Misuse("--parameters module needs --framework torch; modules are torch's")
        if is_module and not isinstance(implementation, type):
            raise Misuse(
                f"--parameters module needs a class or a function that makes the module, got a "
                f"module, {name}; pass a function without arguments that returns it"
            )
        arguments, wanted = (), "no arguments"
    else:
        if is_module or isinstance(implementation, type):
            raise Misuse(
                f"--parameters {parameters} needs a function of x, alpha_p, alpha_n and beta, got "
                f"{name}, a {'class' if isinstance(implementation, type) else 'module'}; pass "
                "--parameters module and what makes the module"
            )
        arguments, wanted = (None,) * 4, "x, alpha_p, alpha_n and beta"
    if not callable(implementation):
        raise Misuse(f"a function of {wanted} is needed, got {name}; name one as MODULE:FUNCTION")
    try:
        signature = inspect.signature(implementation)
    except (TypeError, ValueError):
        return  # built-in functions may have none
    try:
        signature.bind(*arguments)
    except TypeError:
        other = "values or raw" if parameters == "module" else "module"
        raise Misuse(
            f"--parameters {parameters} calls {name} with {wanted}, and its arguments are "
            f"{signature}; pass --parameters {other}, or another function"
        ) from None


def _fits(x: float, dtype: str) -> bool:
    """Whether x is one of the format's numbers; fp32 takes those of fp64's list that are its own
    and not subnormal."""
    exponent = math.frexp(x)[1] - 1
    return dtype != "float32" or not (x and math.isfinite(x)) or -126 <= exponent <= 127


def _number(text: str | None) -> float | None:
    return None if text is None else float.fromhex(text)


def _errors(
    output: str, x: float, got: float, want: float, setting: Mapping[str, Any], dtype: str,
    slack: float,
) -> float:  # fmt: skip
    """The error in units of the allowed one."""
    if math.isnan(want):
        return 0.0 if math.isnan(got) else math.inf
    bits, emin, emax = FORMATS[dtype]
    gradient = output.startswith("d_")
    # a result may overflow once the exact value is beyond half the largest number
    limit = 2.0 ** (emax if not gradient else min(1023, max(emax, 127)))
    if math.isinf(want) or abs(want) >= limit:
        return 0.0 if got == math.copysign(math.inf, want) or _close(got, want) else math.inf
    if not math.isfinite(got):
        return math.inf
    ulp = 2.0 ** (max(math.frexp(want)[1] - 1, emin) - bits + 1)
    if gradient:
        tiny = 2.0**-126 if dtype != "float64" else 2.0**-1022
        allowed = max(slack * abs(want), tiny)
    elif bits > 11:
        terms = _terms(output, x, setting)
        allowed = WIDE_ULPS * 2.0 ** (max(math.frexp(terms)[1] - 1, emin) - bits + 1)
    else:
        allowed = max(HALF_ULPS * ulp, HALF_TERMS * _terms(output, x, setting))
    return abs(got - want) / allowed


def _close(got: float, want: float) -> bool:
    return math.isfinite(want) and abs(got - want) <= 0.01 * abs(want)


def _terms(output: str, x: float, setting: Mapping[str, Any]) -> float:
    """The sum of the absolute values of the terms of f or f'."""
    p, n = (float.fromhex(setting["parameters"][k]["value"]) for k in ("alpha_p", "alpha_n"))
    beta = setting["beta"]
    if output == "df":
        return 2 * p * x + beta if x > 0 else -n * math.expm1(x) + beta
    if x > 0:
        return p * x * x + beta * x
    return n * (x * x / 2 if x > -1e-3 else math.expm1(x) - x) - beta * x


def _given(setting: Mapping[str, Any], parameters: str) -> list[float]:
    key = "value" if parameters == "values" else "raw"
    return [float.fromhex(setting["parameters"][k][key]) for k in ("alpha_p", "alpha_n")]


def _torch(
    implementation: Callable[..., Any], xs: list[float], setting: Mapping[str, Any], dtype: str,
    parameters: str,
) -> Iterable[tuple[str, list[float], float]]:  # fmt: skip
    import torch

    kind = getattr(torch, dtype)
    wide = torch.float64 if dtype == "float64" else torch.float32
    if parameters == "module":
        module = implementation()
        params: list[Any] = [getattr(module, key, None) for key in ("alpha_p", "alpha_n")]
        if not all(isinstance(held, torch.Tensor) for held in params):
            raise Misuse(
                "--parameters module needs a module whose raw parameters are called alpha_p and "
                f"alpha_n, got {type(module).__name__}; name them so, or pass --parameters raw and "
                "a function"
            )
        with torch.no_grad():
            for held, number in zip(params, _given(setting, "raw"), strict=True):
                held.fill_(number)
        function = module
    else:
        params = [
            torch.tensor([v], dtype=wide, requires_grad=True) for v in _given(setting, parameters)
        ]
        beta = torch.tensor([setting["beta"]], dtype=wide)

        def function(x: Any) -> Any:
            return implementation(x, *params, beta)

    x = torch.tensor(xs, dtype=torch.float64).to(kind).requires_grad_()
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    yield "f", y.detach().double().tolist(), 0.0
    yield "df", dx.double().tolist(), 0.0
    raw = "" if parameters == "values" else "raw_"
    # one element at a time: the parameters' gradients are sums over all of them
    found: list[list[float | None]] = [[], []]
    for one in torch.tensor(xs, dtype=torch.float64).to(kind):
        finite = bool(torch.isfinite(one))
        y = function(one.reshape(1))
        grads: Any = (None, None)
        if y.requires_grad:
            grads = torch.autograd.grad(y, params, torch.ones_like(y), allow_unused=True)
        for column, grad in zip(found, grads, strict=True):
            value = 0.0 if grad is None else grad.double().sum().item()
            column.append(value if finite else None)
    for name, column, param in zip(("alpha_p", "alpha_n"), found, params, strict=True):
        eps = torch.finfo(param.dtype).eps
        yield (
            f"d_{raw}{name}",
            column,
            max(WIDE_ULPS * eps, 0.0 if dtype == "float64" else GRADIENT),
        )


def _numpy(
    implementation: Callable[..., Any], xs: list[float], setting: Mapping[str, Any], dtype: str,
    parameters: str,
) -> Iterable[tuple[str, list[float], float]]:  # fmt: skip
    import numpy as np

    x = np.array(xs).astype(dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    given = [wide(v) for v in _given(setting, parameters)]
    results = implementation(x, *given, wide(setting["beta"]))
    results = results if isinstance(results, tuple) else (results,)
    slack = WIDE_ULPS * 2.0**-52 if dtype == "float64" else GRADIENT
    for name, result in zip(_names(parameters), results, strict=False):
        if result is not None:
            yield name, np.asarray(result, dtype=np.float64).tolist(), slack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("implementation", help="MODULE:FUNCTION")
    parser.add_argument("--dtype", action="append", choices=FORMATS)
    parser.add_argument("--parameters", default="values", choices=("values", "raw", "module"))
    parser.add_argument("--framework", default="torch", choices=("torch", "numpy"))
    args = parser.parse_args()
    place, _, name = args.implementation.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function: Any = getattr(importlib.import_module(place), name) if place and name else None
        results = {
            kind: check(function, kind, parameters=args.parameters, framework=args.framework)
            for kind in args.dtype or ["float32"]
        }
    except Misuse as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 2
    for kind, result in results.items():
        print(f"{kind}: {result}")
    return 0 if all(result.ok for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
