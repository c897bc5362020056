"""From comparisons to a `Certificate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from integrand.certificate.certificate import Certificate, Failure
from integrand.certificate.comparison import Comparison
from integrand.certificate.formats import Format, normal_mass
from integrand.certificate.parameters import ALLOWED
from integrand.certificate.regions import failures, regions
from integrand.certificate.subject import Subject

Array = np.ndarray[Any, Any]


def summarise(
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
    """The certificate of two comparisons, the single points, disagreements between program and
    text, and parameter errors."""
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
            found.append(f"{c.output} is left undecided at {c.undecided:,} points")
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
