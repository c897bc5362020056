"""`certify`: an implementation of an activation against the exact values of its declaration."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from integrand.certificate.agreement import disagreements, partial_disagreements
from integrand.certificate.box import box_points, combined, refuse, split
from integrand.certificate.certificate import Certificate
from integrand.certificate.comparison import Comparison
from integrand.certificate.exhaustive import ALL, Swept, finite_below, sweep
from integrand.certificate.formats import Format, format_of
from integrand.certificate.judgement import judge
from integrand.certificate.parameters import parameter_errors
from integrand.certificate.points import adversarial, roots, stratified
from integrand.certificate.special import (
    anchor,
    swallowed_nans,
    wrong_at_anchor,
    wrong_at_breakpoints,
    wrong_limits,
)
from integrand.certificate.subject import subject_of
from integrand.certificate.summary import summarise
from integrand.certificate.truth import Truth, truth_of
from integrand.errors import CertificationError, SpecError
from integrand.spec import Spec, check_values

Array = np.ndarray[Any, Any]
logger = logging.getLogger(__name__)

# points at which text and program are compared, and of those the integrated ones
SAMPLE, QUADRATURES = 200, 40


def certify(
    act: Any,
    dtype: torch.dtype = torch.bfloat16,
    params: Mapping[str, float | Sequence[float]] | None = None,
    impl: str = "auto",
    compiled: bool = False,
    candidate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    exhaustive: bool | range = False,
    points: int = 192,
    device: str = "cpu",
    thorough: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Certificate:
    """Measure f and df = f' of an implementation against the declared text.

    bf16 and fp16: every bit pattern; f and df within 1 ulp of the exact value, next to a root
    (where |f| <= 2**-8 |x f'|) within 2**-22 of the largest term; no wrong sign outside that band;
    infinite only beyond half the largest finite number; NaN to NaN; at +-inf the limit, or NaN
    where there is none. fp32 and fp64: a stratified sample and adversarial points, within
    4 * max(1, condition number) ulp, or within 4 ulp of the largest term (a tabulated f: 1e-12
    relative). df is measured with and without parameter gradients, where the two differ.

    Args:
        act: the activation whose declaration is the truth.
        params: parameter VALUES; omitted ones take their initial value. They are rounded to fp32
            (in fp64 kept), and the exact values are those of the rounded parameters. With ranges
            (low, high) the certificate is one of `points` points of the box.
        impl: the implementation of `act` to measure.
        compiled: measure it under `torch.compile`.
        candidate: any callable x -> y to measure instead of `act`; df comes from autograd. `params`
            must then be the values that the candidate uses.
        exhaustive: fp32 only: all 2**32 bit patterns besides the sample, or a range of patterns
            (ends at multiples of 4096). Takes a C compiler and, for a C kernel, a minute or two.
        points: of a box of parameter values: its corners, and points of low discrepancy inside.
        device: where the implementation runs.
        thorough: False compares fewer points with the declared text and leaves the program's
            partial derivatives unchecked; the measurement of the implementation is the same.
        progress: called with a line of text at each stage; default: `logging` at INFO.

    Raises:
        CertificationError: for a dtype or parameter that cannot be certified, or a candidate that
            changes shape or dtype. A rule that is broken is not raised: see `Certificate.ok`.
        BackendError: an exhaustive fp32 sweep without a C compiler.
    """
    if isinstance(act, (str, Spec, type(None))):
        raise CertificationError(
            f"certify takes an Activation, got {type(act).__name__}: integrand.activation(name) or"
            " integrand.derive(spec) makes one"
        )
    start = time.perf_counter()
    tell = progress or logger.info
    fmt = format_of(dtype)
    patterns = _patterns(fmt, exhaustive)
    single, ranges = split(params)
    if ranges:
        if candidate is not None or patterns:
            raise refuse("with a candidate" if candidate is not None else "exhaustively in fp32")
        places = box_points(act.spec, single, ranges, points)
        certs = []
        for k, place in enumerate(places):
            tell(f"{act.name} {fmt.name}: point {k + 1} of {len(places)}")
            certs.append(
                certify(
                    *(act, dtype, place, impl, compiled),
                    device=device,
                    # the text once: it does not change from point to point
                    thorough=thorough and not k,
                    progress=lambda line: None,
                )
            )
        return combined(certs, ranges, time.perf_counter() - start)
    values = _values(act, single, fmt)
    truth = truth_of(act, values)
    subject = subject_of(
        act, fmt, values, impl=impl, compiled=compiled, candidate=candidate, device=device
    )
    swept = sweep(subject, truth, patterns, tell) if patterns else None
    tell(f"{subject.label} {fmt.name}: evaluating")
    x, breakpoints = _points(truth, fmt)
    if swept:
        x = torch.cat([x, *(torch.from_numpy(left) for left in swept.left)]).unique()
    y, dx = subject(x)
    wide = x.double().numpy()
    got = {"f": y, "df": dx}
    both = {name: judge(truth, fmt, name, wide, values) for name, values in got.items()}
    alone = subject.alone()
    if alone is not None and not np.array_equal(other := alone(x)[1], dx, equal_nan=True):
        both["df"] = both["df"].or_worse(judge(truth, fmt, "df", wide, other))
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
    cert = summarise(
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
    return _with_sweep(cert, swept, both, truth.program.wide) if swept else cert


def _patterns(fmt: Format, exhaustive: bool | range) -> range | None:
    """The fp32 patterns to sweep; half precision is exhaustive anyway."""
    if not exhaustive or fmt.half:
        return None
    if fmt.dtype != torch.float32:
        raise CertificationError(
            f"an exhaustive certificate needs float32 or a half-precision dtype, got {fmt.name}"
        )
    return ALL if exhaustive is True else exhaustive


def _with_sweep(
    cert: Certificate, swept: Swept, both: Mapping[str, Comparison], wide: bool
) -> Certificate:
    """The certificate of the decided points as one of all points swept."""
    below = max(1, finite_below(swept.patterns, 100.0))
    off = {
        name: min(
            1.0,
            (swept.flagged[name] if swept.open else int((c.broken & (np.abs(c.x) < 100)).sum()))
            / below,
        )
        for name, c in both.items()
    }
    reasons = cert.reasons + swept.reasons()
    return replace(
        cert,
        ok=not reasons,
        reasons=reasons,
        checked=swept.done,
        exhaustive=swept.done == len(ALL),
        share_off_f=off["f"],
        share_off_df=off["df"],
        beyond_f=swept.beyond_all("f"),
        beyond_df=swept.beyond_all("df"),
        worst_octaves=swept.worst_octaves(both),
        words=swept.words(wide),
    )


def _values(act: Any, params: Mapping[str, float] | None, fmt: Format) -> dict[str, float]:
    values = {**act.spec.values()}
    for name, value in (params or {}).items():
        if name not in values:
            raise SpecError(
                f"'{name}' is not a parameter of {act.spec.name} "
                f"(its parameters: {', '.join(values) or 'none'})"
            )
        # also of a layer, whose values are tensors under autograd
        values[name] = float(value.detach() if isinstance(value, torch.Tensor) else value)
        if not math.isfinite(values[name]):
            raise SpecError(f"parameter '{name}' must be a finite number, got {value!r}")
    check_values(act.spec, values)
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


def _sample(
    fmt: Format, both: Mapping[str, Comparison], breakpoints: list[float], count: int
) -> Array:
    """Points for the comparison with the text: stratified, around breakpoints, and the worst."""
    near = [fmt.neighbour(fmt.round(b), up) for b in breakpoints for up in (True, False)]
    worst = [
        c.x[np.argsort(-np.where(np.isfinite(c.error), c.error, 0))[:8]] for c in both.values()
    ]
    return np.unique(np.concatenate([stratified(fmt, count), *worst, near, breakpoints]))
