"""Single points with rules of their own: NaN, the infinities, the anchor, the breakpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from integrand.certificate.certificate import Failure
from integrand.certificate.formats import Format
from integrand.certificate.limits import limit
from integrand.certificate.truth import Truth

Array = np.ndarray[Any, Any]


def swallowed_nans(x: Array, outputs: Mapping[str, Array]) -> list[Failure]:
    """NaN in must give NaN out."""
    found = []
    for name, values in outputs.items():
        for i in np.flatnonzero(np.isnan(x) & ~np.isnan(values)):
            got = float(values[i])
            found.append(Failure(name, math.nan, got, math.nan, "NaN in must give NaN out"))
    return found


def wrong_limits(
    truth: Truth, fmt: Format, x: Array, outputs: Mapping[str, Array]
) -> list[Failure]:
    """At an infinity: the limit to 1 ulp, or NaN where there is none."""
    found = []
    why = "at an infinity: the limit, or NaN where there is none"
    for name, values in outputs.items():
        for sign in (-1, 1):
            expected = _limit(truth, name, sign)
            for got in values[x == sign * math.inf].tolist():
                if expected is not None and not _fits(fmt, got, expected):
                    found.append(Failure(name, sign * math.inf, got, expected, why))
    return found


def _limit(truth: Truth, output: str, sign: int) -> float | None:
    def value(x: float) -> Any:
        if truth.program.tables and output == "f" and truth.spec.kind == "gradient":
            return float(truth.fp64(np.array([x]), ["f"])["f"][0][0])
        return truth.f(x) if output == "f" else truth.df(x)

    return limit(value, sign)


def _fits(fmt: Format, got: float, expected: float) -> bool:
    if math.isnan(expected):
        return math.isnan(got)
    if math.isinf(expected) or abs(expected) > fmt.largest:
        return got == math.copysign(math.inf, expected)
    return abs(got - expected) <= float(fmt.spacing(np.array([expected]))[0])


def anchor(truth: Truth) -> tuple[float, float] | None:
    """(point, value) that f takes exactly: the declared anchor, f(0) = 0 of a declared function."""
    if truth.spec.kind == "gradient":
        point, value = truth.spec.anchor
        return None if isinstance(point, str) else (float(point), float(value))
    return (0.0, 0.0) if truth.text(0.0) == 0 else None


def wrong_at_anchor(truth: Truth, fmt: Format, x: Array, y: Array) -> list[Failure]:
    """f takes its anchor value exactly, where point and value are numbers of the format."""
    place = anchor(truth)
    if place is None or any(fmt.round(v) != v for v in place):
        return []
    point, value = place
    why = "f must take its anchor value exactly"
    return [Failure("f", point, got, value, why) for got in y[x == point].tolist() if got != value]


def wrong_at_breakpoints(
    truth: Truth, fmt: Format, x: Array, dx: Array, breakpoints: Iterable[float]
) -> list[Failure]:
    """df at a breakpoint is the declared gradient there, correctly rounded where that gradient is
    a number of the type computed in; for a declared function it lies between the two slopes."""
    found = []
    for point in breakpoints:
        for got in dx[x == point].tolist():
            if truth.spec.kind == "function":
                failure = _between_slopes(truth, fmt, point, got)
            else:
                failure = _declared(truth, fmt, point, got)
            found += [failure] if failure else []
    return found


def _between_slopes(truth: Truth, fmt: Format, x: float, got: float) -> Failure | None:
    low, high = sorted(float(s) for s in truth.slopes(x))
    room = float(fmt.spacing(np.array([max(abs(low), abs(high))]))[0])
    if low - room <= got <= high + room:
        return None
    return Failure("df", x, got, low, "f' at a breakpoint must lie between the slopes beside it")


def _declared(truth: Truth, fmt: Format, x: float, got: float) -> Failure | None:
    exact = truth.text(x)
    expected = float(exact)
    wide = torch.tensor(expected, dtype=fmt.parameter_dtype)
    if exact != expected or float(wide) != expected or fmt.round(expected) == got:
        return None
    return Failure("df", x, got, expected, "f' at a breakpoint must equal the declared gradient")
