"""`certify`: an implementation of an activation against the exact values of its declaration."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from integrand.certificate.agreement import disagreements, partial_disagreements
from integrand.certificate.certificate import Certificate, Failure
from integrand.certificate.comparison import Comparison, Rule, compare
from integrand.certificate.formats import Format, format_of, normal_mass
from integrand.certificate.largest_term import largest_terms
from integrand.certificate.parameters import ALLOWED, parameter_errors
from integrand.certificate.points import adversarial, roots, stratified
from integrand.certificate.regions import failures, regions
from integrand.certificate.special import (
    anchor,
    swallowed_nans,
    wrong_at_anchor,
    wrong_at_breakpoints,
    wrong_limits,
)
from integrand.certificate.subject import Subject, subject_of
from integrand.certificate.truth import Truth, truth_of
from integrand.errors import CertificationError

Array = np.ndarray[Any, Any]
logger = logging.getLogger(__name__)

HALF_RULE = Rule(ulps=1.0, term=2.0**-22)
# points at which text and program are compared, and of those the integrated ones
SAMPLE, QUADRATURES = 200, 40


def certify(
    act: Any,
    dtype: torch.dtype = torch.bfloat16,
    params: Mapping[str, float] | None = None,
    impl: str = "auto",
    compiled: bool = False,
    candidate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    device: str = "cpu",
    thorough: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Certificate:
    """Measure f and df = f' of an implementation against the declared text.

    bf16 and fp16: every bit pattern; f and df within 1 ulp of the exact value, next to a root
    within 2**-22 of the largest term; no wrong sign outside that band; infinite only beyond half
    the largest finite number; NaN to NaN; at +-inf the limit, or NaN where there is none. fp32 and
    fp64: a stratified sample and adversarial points, within 4 * max(1, condition number) ulp, or
    within 4 ulp of the largest term (a tabulated f: 1e-12 relative).

    Args:
        act: the activation whose declaration is the truth.
        params: parameter VALUES; omitted ones take their initial value. They are rounded to fp32
            (in fp64 kept), and the exact values are those of the rounded parameters.
        impl: the implementation of `act` to measure.
        compiled: measure it under `torch.compile`.
        candidate: any callable x -> y to measure instead of `act`; df comes from autograd. `params`
            must then be the values that the candidate uses.
        device: where the implementation runs.
        thorough: False compares fewer points with the declared text and leaves the program's
            partial derivatives unchecked; the measurement of the implementation is the same.
        progress: called with a line of text at each stage; default: `logging` at INFO.

    Raises:
        CertificationError: for a dtype or parameter that cannot be certified, or a candidate that
            changes shape or dtype. A rule that is broken is not raised: see `Certificate.ok`.
    """
    start = time.perf_counter()
    tell = progress or logger.info
    fmt = format_of(dtype)
    values = _values(act, params, fmt)
    truth = truth_of(act, values)
    subject = subject_of(
        act, fmt, values, impl=impl, compiled=compiled, candidate=candidate, device=device
    )
    tell(f"{subject.label} {fmt.name}: evaluating")
    x, breakpoints = _points(truth, fmt)
    y, dx = subject(x)
    wide = x.double().numpy()
    got = {"f": y, "df": dx}
    both = {name: _compare(truth, fmt, name, wide, values) for name, values in got.items()}
    tell(f"{subject.label} {fmt.name}: single points and the declared text")
    single = [
        *swallowed_nans(wide, got),
        *wrong_limits(truth, fmt, wide, got),
        *wrong_at_anchor(truth, fmt, wide, y),
        *wrong_at_breakpoints(truth, fmt, wide, dx, breakpoints),
    ]
    share = 1 if thorough else 5
    sample = _sample(fmt, both, breakpoints, SAMPLE // share)
    wrong, compared = disagreements(truth, sample, QUADRATURES // share)
    errors: dict[str, float] = {}
    if candidate is None and act.spec.params:
        # one more shape would cost one more compilation
        draws = len(x) if compiled else 1 << 16
        errors = parameter_errors(truth, fmt, subject, draws)
        wrong += partial_disagreements(truth) if thorough else []
    return _certificate(
        act,
        subject,
        fmt,
        values,
        both,
        single,
        wrong,
        errors,
        wide,
        compared=compared,
        seconds=time.perf_counter() - start,
    )


def _values(act: Any, params: Mapping[str, float] | None, fmt: Format) -> dict[str, float]:
    values = {**act.spec.values()}
    for name, value in (params or {}).items():
        if name not in values:
            raise CertificationError(
                f"'{name}' is not a parameter of {act.spec.name} "
                f"(its parameters: {', '.join(values) or 'none'})"
            )
        values[name] = float(value)
        if not math.isfinite(values[name]):
            raise CertificationError(f"parameter '{name}' must be a finite number, got {value!r}")
    rounded = {k: float(torch.tensor(v, dtype=fmt.parameter_dtype)) for k, v in values.items()}
    return rounded


def _points(truth: Truth, fmt: Format) -> tuple[torch.Tensor, list[float]]:
    breakpoints = truth.breakpoints()
    if fmt.half:
        return fmt.patterns(), breakpoints
    place = anchor(truth)
    special = [*breakpoints, *(place[:1] if place else ())]
    for name in ("f", "df"):
        special += roots(lambda x, name=name: truth.fp64(x, [name])[name][0], fmt.largest)
    count = 20_000 if fmt.dtype == torch.float32 else 300
    if fmt.dtype == torch.float64 and len(special) > 40:
        special = special[:: len(special) // 40]
    points = np.union1d(stratified(fmt, count), adversarial(fmt, special))
    points = np.concatenate([points, [-0.0, np.nan, np.inf, -np.inf]])
    return torch.from_numpy(points).to(fmt.dtype), breakpoints


def _compare(truth: Truth, fmt: Format, name: str, x: Array, computed: Array) -> Comparison:
    finite = np.isfinite(x)
    x, computed = x[finite], computed[finite]
    value, bound = truth.fp64(x, [name])[name]
    terms = largest_terms(truth.program, x, truth.values, [name])[name]
    rule, factor = HALF_RULE, np.ones(x.shape)
    if not fmt.half:
        tabulated = bool(truth.program.tables)
        relative = 1e-12 if tabulated and fmt.dtype == torch.float64 else 0.0
        rule = Rule(ulps=4.0, term=4.0 * 2.0 ** (1 - fmt.precision), relative=relative)
        factor = np.maximum(1.0, _condition(truth, name, x, value))
    exact = truth.f if name == "f" else truth.df
    if name == "f" and fmt.half and truth.program.tables:
        # a table is right to 1e-12, far finer than half precision; the sample checks that
        exact = lambda x: truth.run("f", x)  # noqa: E731
    return compare(name, fmt, rule, x, computed, value, bound, terms, factor, exact)


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


def _sample(
    fmt: Format, both: Mapping[str, Comparison], breakpoints: list[float], count: int
) -> Array:
    """Points for the comparison with the text: stratified, around breakpoints, and the worst."""
    near = [fmt.neighbour(fmt.round(b), up) for b in breakpoints for up in (True, False)]
    worst = [
        c.x[np.argsort(-np.where(np.isfinite(c.error), c.error, 0))[:8]] for c in both.values()
    ]
    return np.unique(np.concatenate([stratified(fmt, count), *worst, near, breakpoints]))


def _certificate(
    act: Any,
    subject: Subject,
    fmt: Format,
    values: dict[str, float],
    both: Mapping[str, Comparison],
    single: list[Failure],
    wrong: list[str],
    errors: Mapping[str, float],
    x: Array,
    *,
    compared: int,
    seconds: float,
) -> Certificate:
    f, df = both["f"], both["df"]
    worst = f if _worst(f) >= _worst(df) else df
    weights = normal_mass(x)[np.isfinite(x)] if fmt.half else None
    below = np.abs(f.x) < 100

    def weighted(c: Comparison, of: Callable[[Array], Array]) -> float | None:
        if weights is None:
            return None
        return float((weights * of(np.where(np.isfinite(c.error), c.error, 0.0))).sum())

    def off(c: Comparison) -> float:
        over = c.error > 1 if fmt.half else c.broken
        return float(over[below].mean())

    special_nonfinite = sum(1 for s in single if not math.isfinite(s.x))
    reasons = _reasons(both, single, errors) + wrong[:5]
    return Certificate(
        name=act.spec.name,
        subject=subject.label,
        dtype=fmt.name,
        impl=subject.impl,
        compiled=subject.compiled,
        params=values,
        ok=not reasons,
        max_ulp_f=_worst(f),
        max_ulp_df=_worst(df),
        wrong_signs=int(f.wrong_sign.sum() + df.wrong_sign.sum()),
        nonfinite=int(f.nonfinite.sum() + df.nonfinite.sum()) + special_nonfinite,
        worst_x=float(worst.x[np.argmax(np.where(np.isfinite(worst.error), worst.error, -1))]),
        mean_ulp_f=weighted(f, lambda e: e),
        mean_ulp_df=weighted(df, lambda e: e),
        mass_off_f=weighted(f, lambda e: e > 1),
        mass_off_df=weighted(df, lambda e: e > 1),
        share_off_f=off(f),
        share_off_df=off(df),
        max_param_error=max(errors.values(), default=0.0) if subject.own else None,
        checked=len(x),
        exhaustive=fmt.half,
        decided_in_multiprecision=f.by_multiprecision + df.by_multiprecision,
        compared_with_text=compared,
        seconds=seconds,
        reasons=reasons,
        regions=regions(f) + regions(df),
        failures=failures(f) + failures(df) + single[:10],
    )


def _worst(c: Comparison) -> float:
    return float(np.max(np.where(np.isfinite(c.error), c.error, 0.0), initial=0.0))


def _reasons(
    both: Mapping[str, Comparison], single: list[Failure], errors: Mapping[str, float]
) -> list[str]:
    found = []
    for c in both.values():
        kinds = {
            "has the wrong sign": c.wrong_sign,
            "is infinite or NaN where it must be finite": c.nonfinite,
            "is off by more than allowed": c.broken & ~c.wrong_sign & ~c.nonfinite,
        }
        for text, mask in kinds.items():
            if mask.any():
                i = np.flatnonzero(mask)[np.argmax(c.error[mask])]
                found.append(
                    f"{c.output} {text} at {int(mask.sum())} points, worst at x = {c.x[i]:.9g}: "
                    f"got {c.computed[i]:.9g}, exact {c.exact[i]:.9g}"
                )
        if c.undecided:
            found.append(f"{c.output} could not be decided at {c.undecided} points")
    for why, output in sorted({(s.why, s.output) for s in single}):
        some = [s for s in single if (s.why, s.output) == (why, output)]
        first = some[0]
        found.append(
            f"{output}: {why}; at x = {first.x:.9g} got {first.got:.9g}, "
            f"expected {first.expected:.9g} ({len(some)} such points)"
        )
    for name, error in errors.items():
        if not error <= ALLOWED:
            found.append(
                f"the gradient by {name} is off by {error:.2g} of the sum of absolute terms, "
                f"allowed {ALLOWED:.0e}"
            )
    return found
