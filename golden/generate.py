"""Writes xielu.json: exact values of xIELU and its derivatives, computed with mpmath alone.

    python golden/generate.py        # needs mpmath; writes the same bytes every time

Format: golden/README.md. Formula: arXiv:2411.13010.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mpmath

BETA = 0.5
# name -> the values meant: initial; small; large; raw 166 and 40.75, as a published model is
# reported to hold in its first layer
SETTINGS = {
    "initial": (0.8, 0.8),
    "small": (0.05, 0.51),
    "large": (10.0, 10.0),
    "extreme": (166.0, 41.25),
}
_SIZES = (
    1e-30, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0,
    2.4375, 3.0, 4.0, 5.0, 6.25, 8.0, 10.0, 17.0, 20.0, 37.0, 64.0, 87.0, 88.0, 89.0, 104.0, 150.0,
    286.0, 287.0, 1000.0, 10000.0, 65504.0, 1e8, 1e15,
)  # fmt: skip
OUTPUTS = ("f", "df", "d_alpha_p", "d_alpha_n", "d_raw_alpha_p", "d_raw_alpha_n")
# significand bits, smallest normal exponent, largest exponent
HALVES = {"bfloat16": (8, -126, 127), "float16": (11, -14, 15)}
SINGLE = (24, -126, 127)


def rounded(value: Any, precision: int, emin: int, emax: int) -> float:
    """A real number rounded once to a binary format, to nearest, ties to even."""
    if mpmath.isinf(value) or value == 0:
        return float(value)
    exponent = max(int(mpmath.mag(value)) - 1, emin)
    # more digits than any value here has, or dividing would round a first time
    with mpmath.workdps(150):
        quantum = mpmath.mpf(2) ** (exponent - precision + 1)
        found = mpmath.nint(value / quantum) * quantum
    largest = (2 - mpmath.mpf(2) ** (1 - precision)) * mpmath.mpf(2) ** emax
    return math.copysign(math.inf, value) if abs(found) > largest else float(found)


def inputs() -> list[float]:
    """fp32 numbers of both signs, and, for fp64 alone, some beyond."""
    single = [rounded(mpmath.mpf(s), *SINGLE) for s in _SIZES]
    # the two fp32 neighbours of the clamp at -1e-6 that much published code has
    near = [struct.unpack("<f", struct.pack("<i", _bits(1e-6) + k))[0] for k in (-1, 1)]
    sizes = sorted({*single, *near, 5e-324, 1e-300, 1e160})
    return [-math.inf, *(-s for s in reversed(sizes)), -0.0, 0.0, *sizes, math.inf, math.nan]


def _bits(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]


def exact(x: float, raw_p: float, raw_n: float) -> dict[str, Any]:
    """Every output at x; None at nan, where only f and f' have to be nan."""
    if math.isnan(x):
        return {n: mpmath.nan if n in ("f", "df") else None for n in OUTPUTS}
    # expm1(x) - x is x^2/2 for small x: twice the digits of x cancel
    digits = 60 + (2 * max(0, -math.floor(math.log10(abs(x)))) if x and math.isfinite(x) else 0)
    with mpmath.workdps(digits):
        a_p, a_n, t = mpmath.mpf(raw_p), mpmath.mpf(raw_n), mpmath.mpf(x)
        alpha_p, alpha_n = (mpmath.log1p(mpmath.exp(a)) for a in (a_p, a_n))
        alpha_n, zero = alpha_n + BETA, mpmath.mpf(0)
        if t > 0:
            f, df, d_p, d_n = alpha_p * t * t + BETA * t, 2 * alpha_p * t + BETA, t * t, zero
        elif mpmath.isinf(t):
            # the limits: alpha_n > beta, so that f grows to the left as well
            f, df, d_p, d_n = mpmath.inf, BETA - alpha_n, zero, mpmath.inf
        else:
            h = mpmath.expm1(t) - t
            f, df = alpha_n * h + BETA * t, alpha_n * mpmath.expm1(t) + BETA
            d_p, d_n = zero, h
        slopes = [1 / (1 + mpmath.exp(-a)) for a in (a_p, a_n)]
        return dict(zip(OUTPUTS, (f, df, d_p, d_n, d_p * slopes[0], d_n * slopes[1]), strict=True))


def _columns(xs: Iterable[float], raw: tuple[float, float], form: str | None) -> dict[str, Any]:
    xs = list(xs)
    rows = [exact(x, *raw) for x in xs]
    out: dict[str, Any] = {"x": [x.hex() for x in xs]}
    for name in OUTPUTS:
        out[name] = [_each(row[name], lambda v: float(v).hex()) for row in rows]
        if form is None:
            out[f"{name}_decimal"] = [
                _each(row[name], lambda v: mpmath.nstr(v, 30)) for row in rows
            ]
        elif name in ("f", "df"):
            out[f"{name}_rounded"] = [_each(row[name], _round_to(form)) for row in rows]
    return out


def _each(value: Any, write: Callable[[Any], str]) -> str | None:
    return None if value is None else "nan" if mpmath.isnan(value) else write(value)


def _round_to(form: str) -> Callable[[Any], str]:
    return lambda value: rounded(value, *HALVES[form]).hex()


def setting(name: str) -> dict[str, Any]:
    """One pair of parameters with all its points."""
    with mpmath.workdps(60):
        parts = (mpmath.mpf(SETTINGS[name][0]), mpmath.mpf(SETTINGS[name][1]) - BETA)
        raw = tuple(rounded(p + mpmath.log(-mpmath.expm1(-p)), *SINGLE) for p in parts)
        effective = [mpmath.log1p(mpmath.exp(mpmath.mpf(a))) for a in raw]
        effective[1] += BETA
    params = {}
    for key, stored, value in zip(("alpha_p", "alpha_n"), raw, effective, strict=True):
        params[key] = {
            "raw": stored.hex(),
            "raw_decimal": repr(stored),
            "value": float(value).hex(),
            "value_decimal": mpmath.nstr(value, 30),
        }
    points = {"float64": _columns(inputs(), raw, None)}
    for form, bits in HALVES.items():
        near = [x if math.isnan(x) else rounded(mpmath.mpf(x), *bits) for x in inputs()]
        points[form] = _columns(_distinct(near), raw, form)
    return {"name": name, "beta": BETA, "parameters": params, "points": points}


def _distinct(xs: Iterable[float]) -> list[float]:
    # -0.0 and 0.0 are equal, and both are wanted
    return list({x.hex(): x for x in xs}.values())


def data() -> dict[str, Any]:
    """The contents of xielu.json."""
    return {
        "format": 1,
        "activation": "xIELU, arXiv:2411.13010",
        "f": "alpha_p*x^2 + beta*x if x > 0 else alpha_n*(exp(x) - 1 - x) + beta*x",
        "parametrisation": "alpha_p = log(1 + exp(raw)), alpha_n = beta + log(1 + exp(raw))",
        "settings": [setting(name) for name in SETTINGS],
    }


def text() -> str:
    """xielu.json, one list of numbers a line."""
    lists: list[str] = []

    def flat(value: Any) -> Any:
        if isinstance(value, list) and not isinstance(value[0], dict):
            lists.append(json.dumps(value, separators=(",", ":")))
            return f"@{len(lists) - 1}@"
        if isinstance(value, list):
            return [flat(v) for v in value]
        return {k: flat(v) for k, v in value.items()} if isinstance(value, dict) else value

    whole = json.dumps(flat(data()), indent=1)
    for place, line in enumerate(lists):
        whole = whole.replace(f'"@{place}@"', line, 1)
    return whole + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "xielu.json").write_text(text(), encoding="utf-8")
