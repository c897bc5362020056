"""Rung 0: is a candidate an activation at all, and what its size and slope are under N(0, 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from integrand.search.forward import Array, values
from integrand.search.profile import Profile

FP16, BF16 = 65504.0, 3.3895313892515355e38
MODERATE = 16.0  # pre-activations that every model meets: f and g fit fp16 there
_NEAR, _AROUND = 1e-10, 1e-3


@dataclass(frozen=True)
class Validity:
    """Why a candidate is refused (`reason`, empty where it is not), and its moments.

    Under N(0, 1): `mean` E f, `square` E f^2, `slope_square` E g^2, `flat` P(g = 0). On
    [-1e4, 1e4]: `steepest` sup |g| (inf where it still grows at the end), `monotone` whether g
    keeps its sign.
    """

    reason: str
    mean: float = np.nan
    square: float = np.nan
    slope_square: float = np.nan
    flat: float = np.nan
    steepest: float = np.nan
    monotone: bool = False

    @property
    def ok(self) -> bool:
        return not self.reason


def validity(p: Profile) -> Validity:
    """f and g finite for |x| <= 1e4 and within the largest bf16 number, for |x| <= 16 within the
    largest fp16 one; no pole; a function without jumps; E f^2 and E g^2 not 0."""
    if reason := _refusal(p):
        return Validity(reason)
    size, far = np.abs(p.g), np.abs(p.x) > 1000
    steepest = float(size.max())
    square, slope_square = p.mean(p.f**2), p.mean(p.g**2)
    if not square > 0 or not slope_square > 0:
        return Validity("f is constant under N(0, 1)")
    return Validity(
        reason="",
        mean=p.mean(p.f),
        square=square,
        slope_square=slope_square,
        flat=p.mean(np.where(p.g == 0, 1.0, 0.0)),
        steepest=np.inf if steepest > 1.01 * size[~far].max() else steepest,
        monotone=bool((p.g >= 0).all() or (p.g <= 0).all()),
    )


def _refusal(p: Profile) -> str:
    for name, y in (("f", p.f), ("g", p.g)):
        with np.errstate(invalid="ignore"):
            beyond = ~(np.abs(y) <= np.where(np.abs(p.x) <= MODERATE, FP16, BF16))
        if beyond.any():
            x = p.x[beyond][np.argmin(np.abs(p.x[beyond]))]
            return f"{name} is not finite, or beyond half precision, at x = {x:.4g}"
    return _at_cuts(p)


def _at_cuts(p: Profile) -> str:
    """What only shows next to a cut or at a simple number: missing values, poles, jumps."""
    declared = values(p.spec.node, np.arange(-160, 161) / 20, p.params)
    if not np.isfinite(declared).all():
        return f"the {p.spec.kind} is not finite at a multiple of 1/20"
    if not p.cuts:
        return ""
    c = np.array(p.cuts)
    unit = np.maximum(1.0, np.abs(c))
    here, near, around = (_sides(p, c, d * unit) for d in (0.0, _NEAR, _AROUND))
    if not all(np.isfinite(y).all() for y in (*here, *near)):
        return f"f or g is not finite at one of x = {_listed(c)}"
    for y, z in zip(near, around, strict=True):
        if (np.abs(y).max(0) > 1e3 * (1 + np.abs(z).max(0))).any():
            return f"a pole at one of x = {_listed(c)}"
    f = np.vstack([here[0][:1], near[0]])
    if p.spec.kind == "function" and (np.ptp(f, axis=0) > 1e-5 * (1 + np.abs(f[0]))).any():
        return f"the function jumps at one of x = {_listed(c)}"
    return ""


def _sides(p: Profile, c: Array, step: Array) -> tuple[Array, Array]:
    x = np.stack([c - step, c + step])
    return p.value(x), p.slope(x)


def _listed(c: Array) -> str:
    return ", ".join(f"{x:.4g}" for x in c[:4]) + (", ..." if len(c) > 4 else "")
