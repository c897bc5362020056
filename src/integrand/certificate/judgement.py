"""The rules of a format at work: what an implementation may be off by, and whether it is."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from integrand.certificate.comparison import Comparison, Rule, compare
from integrand.certificate.formats import Format
from integrand.certificate.truth import Truth

Array = np.ndarray[Any, Any]

HALF_RULE = Rule(ulps=1.0, term=2.0**-22)
# |x f'| >= 2^8 |f| where the next root is closer than about |x| / 2^8
NEAR_ROOT = 2.0**8


def judge(truth: Truth, fmt: Format, name: str, x: Array, computed: Array) -> Comparison:
    """Values of an output, computed at numbers x of a format, against the truth and the rules of
    the format. Points with infinite or undefined x are left out."""
    finite = np.isfinite(x)
    x, computed = x[finite], computed[finite]
    value, bound = truth.fp64(x, [name])[name]
    terms = truth.largest_terms(x, [name])[name]
    condition = _condition(truth, name, x, value)
    if fmt.half:
        # the band is for neighbourhoods of roots: elsewhere a formula that cancels is wrong
        rule, factor = HALF_RULE, np.ones(x.shape)
        terms = np.where(condition >= NEAR_ROOT, terms, 0.0)
    else:
        tabulated = bool(truth.program.tables)
        relative = 1e-12 if tabulated and fmt.dtype == torch.float64 else 0.0
        rule = Rule(ulps=4.0, term=4.0 * 2.0 ** (1 - fmt.precision), relative=relative)
        factor = np.maximum(1.0, condition)
    if fmt.dtype == torch.float64:
        # fp64 cannot measure fp64: every point goes to multi-precision
        bound = np.full_like(bound, np.inf)
    exact = partial(_exact, truth, name, fmt)
    result = compare(name, fmt, rule, x, computed, value, bound, terms, factor, exact)
    if not fmt.half and (places := np.flatnonzero(result.broken)[:500]).size:
        # the condition number from fp64 may itself be wrong there
        factor[places] = [_exact_condition(truth, name, float(v)) for v in x[places]]
        result = compare(name, fmt, rule, x, computed, value, bound, terms, factor, exact)
    return result


def _exact(truth: Truth, name: str, fmt: Format, x: float) -> Any:
    if name == "df":
        return truth.df(x)
    # a table is right to 1e-12, far finer than fp32; the sample checks that. in fp64 it is
    # compared with quadrature, except beyond, where it is a polynomial and a constant
    if truth.program.tables and (fmt.dtype != torch.float64 or abs(x) > 2.0**40):
        return truth.run("f", x)
    return truth.f(x)


def _exact_condition(truth: Truth, name: str, x: float) -> float:
    if x == 0:
        return 1.0
    size = abs(truth.f(x) if name == "f" else truth.df(x))
    slope = abs(truth.run("df", x) if name == "f" else truth.bend(x))
    return max(1.0, float(min(abs(x) * slope / size, 1e300))) if size else 1.0


def _condition(truth: Truth, name: str, x: Array, value: Array) -> Array:
    """|x f'/f|, for df |x f''/f'| with f'' by a central difference."""
    with np.errstate(all="ignore"):
        if name == "f":
            slope = truth.fp64(x, ["df"])["df"][0]
        else:
            step = 2.0**-20
            up, down = (truth.fp64(x * (1 + s * step), ["df"])["df"][0] for s in (1, -1))
            slope = (up - down) / (2 * step * x)
        return np.nan_to_num(np.abs(x * slope / value), nan=1.0, posinf=1e300)
