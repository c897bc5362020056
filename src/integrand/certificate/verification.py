"""`verify`: is the derived f the integral of the declared gradient? At many scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from integrand.certificate.truth import Truth

# numerics: relative to max(|f|, |x|)
ALLOWED = 1e-12


@dataclass(frozen=True)
class Verification:
    """`worst` is the largest |f(x) - f(0) - integral of g from 0 to x| / max(|f|, |x|)."""

    ok: bool
    worst: float
    worst_x: float
    points: int
    skipped: int


def verify(act: Any, params: Mapping[str, float] | None = None) -> Verification:
    """Check the scalar program's f, in real arithmetic, against quadrature of the declared gradient
    at |x| from 2**-40 to 2**14 on both sides and beside every breakpoint.

    `skipped` counts points where quadrature does not settle (a gradient that oscillates). For a
    declared function f is compared with the text itself.
    """
    truth = Truth(act.spec, act.program, {**act.spec.values(), **(params or {})})
    points = [s * 2.0**k * 1.3 for k in range(-40, 14, 3) for s in (1, -1)]
    points += [b + s * 0.01 for b in truth.breakpoints() for s in (1, -1)]
    worst, worst_x, skipped = 0.0, 0.0, 0
    gradient = act.spec.kind == "gradient"
    base = truth.run("f", 0.0) - (truth.f_by_quadrature(0.0) if gradient else truth.text(0.0))
    for x in points:
        true = truth.f_by_quadrature(x) if gradient else truth.text(x)
        if true is None:
            skipped += 1
            continue
        got = truth.run("f", x)
        error = float(abs(got - true - base) / max(abs(true), abs(x)))
        if not error <= worst:
            worst, worst_x = error, x
    return Verification(worst <= ALLOWED, worst, worst_x, len(points), skipped)
