"""Single points with rules of their own: NaN, the infinities, the anchor, the breakpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from integrand.certificate.certificate import Failure
from integrand.certificate.formats import Format
from integrand.certificate.limits import limit
from integrand.certificate.subject import Subject
from integrand.certificate.truth import Truth

Array = np.ndarray[Any, Any]


def swallowed_nans(x: Array, outputs: dict[str, Array]) -> list[Failure]:
    """NaN in must give NaN out."""
    found = []
    for name, values in outputs.items():
        for i in np.flatnonzero(np.isnan(x) & ~np.isnan(values)):
            got = float(values[i])
            found.append(Failure(name, math.nan, got, math.nan, "NaN in must give NaN out"))
    return found


def wrong_limits(truth: Truth, fmt: Format, subject: Subject) -> list[Failure]:
    """At an infinity: the limit to 1 ulp, or NaN where there is none."""
    x = torch.tensor([-math.inf, math.inf], dtype=fmt.dtype)
    y, dx = subject(x)
    found = []
    for name, values in (("f", y), ("df", dx)):
        for got, sign in zip(values.tolist(), (-1, 1), strict=True):
            expected = _limit(truth, name, sign)
            if expected is not None and not _fits(fmt, got, expected):
                why = "at an infinity: the limit, or NaN where there is none"
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


def wrong_at_anchor(truth: Truth, fmt: Format, subject: Subject) -> list[Failure]:
    """f takes its anchor value exactly, where point and value are numbers of the format."""
    point, value = truth.spec.anchor if truth.spec.kind == "gradient" else (0, None)
    if value is None:
        exact = truth.text(0.0)
        value = float(exact) if exact == 0 else None
    if value is None or isinstance(point, str):
        return []
    if fmt.round(point) != point or fmt.round(value) != value:
        return []
    y, _ = subject(torch.tensor([float(point)], dtype=fmt.dtype))
    if float(y[0]) == float(value):
        return []
    why = "f must take its anchor value exactly"
    return [Failure("f", float(point), float(y[0]), float(value), why)]


def wrong_at_breakpoints(
    truth: Truth, fmt: Format, subject: Subject, points: Iterable[float]
) -> list[Failure]:
    """df at a breakpoint is the declared gradient there, correctly rounded where that gradient is
    a number of the type computed in; for a declared function it lies between the two slopes."""
    wide = torch.float64 if fmt.dtype == torch.float64 else torch.float32
    places = [float(p) for p in points if fmt.round(p) == p]
    if not places:
        return []
    _, dx = subject(torch.tensor(places, dtype=fmt.dtype))
    found = []
    for x, got in zip(places, dx.tolist(), strict=True):
        if truth.spec.kind == "function":
            low, high = sorted(float(s) for s in truth.slopes(x))
            room = float(fmt.spacing(np.array([max(abs(low), abs(high))]))[0])
            if not low - room <= got <= high + room:
                why = "f' at a breakpoint must lie between the slopes beside it"
                found.append(Failure("df", x, got, low, why))
            continue
        exact = truth.text(x)
        expected = float(exact)
        held = exact == expected and float(torch.tensor(expected, dtype=wide)) == expected
        if held and fmt.round(expected) != got:
            why = "f' at a breakpoint must equal the declared gradient"
            found.append(Failure("df", x, got, expected, why))
    return found
