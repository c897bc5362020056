"""`Certificate`: what was checked, how far off it was, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Failure:
    """One point at which a rule is broken."""

    output: str
    x: float
    got: float
    expected: float
    why: str


@dataclass(frozen=True)
class Region:
    """An interval of x in which a rule is broken throughout (up to single points)."""

    output: str
    low: float
    high: float
    points: int
    worst: float
    worst_x: float

    def __str__(self) -> str:
        return (
            f"{self.output} on [{self.low:.6g}, {self.high:.6g}]: {self.points} points, "
            f"worst {self.worst:.4g} ulp at {self.worst_x:.6g}"
        )


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The result of `certify`. Errors are in ulps: |computed - exact| / (spacing of the dtype at
    the exact value); next to a root, where the formula's own terms cancel, in units of the band
    (2**-22 of the largest term in half precision, 1 ulp of the largest term else) if that is wider.

    - `ok`: no rule is broken. `reasons` says in sentences which ones are.
    - `max_ulp_f`, `max_ulp_df`: the worst error over all points; `worst_x` the point of the larger.
    - `wrong_signs`, `nonfinite`: points with a wrong sign outside the band; with an infinity or NaN
      that should not be there, a NaN swallowed, or a wrong value at an infinity.
    - `mean_ulp_f`, `mean_ulp_df`: mean error under N(0, 1) pre-activations; `mass_off_f`,
      `mass_off_df`: their share off by more than 1 ulp (None for sampled dtypes).
    - `share_off_f`, `share_off_df`: share of the finite points with |x| < 100 off by more than
      1 ulp (half precision), or outside the allowance (sampled dtypes).
    - `beyond_f`, `beyond_df`: fp32 inputs off by more than 1 ulp; `worst_octaves`: the intervals
      between powers of two with the largest errors, with their number of such inputs; `words`: what
      was checked and what decided (of an exhaustive fp32 sweep, or of a box).
    - `points`: of a box of parameter values, where `params` holds ranges [low, high], the number of
      points checked; `worst_params`: the values at the worst of them, where `worst_x` lies.
    - `max_param_error`: worst error of a parameter gradient relative to the sum of absolute terms
      (None for a candidate).
    """

    name: str
    subject: str
    dtype: str
    impl: str
    compiled: bool
    params: dict[str, Any]
    ok: bool
    max_ulp_f: float
    max_ulp_df: float
    wrong_signs: int
    nonfinite: int
    worst_x: float
    mean_ulp_f: float | None
    mean_ulp_df: float | None
    mass_off_f: float | None
    mass_off_df: float | None
    share_off_f: float
    share_off_df: float
    max_param_error: float | None
    checked: int
    exhaustive: bool
    decided_in_multiprecision: int
    compared_with_text: int
    seconds: float
    beyond_f: int | None = None
    beyond_df: int | None = None
    words: str = ""
    points: int | None = None
    worst_params: dict[str, float] | None = None
    worst_octaves: list[Region] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; an infinite or undefined number becomes text."""

        def plain(value: Any) -> Any:
            if isinstance(value, float) and not math.isfinite(value):
                return str(value)
            if isinstance(value, Region | Failure):
                return plain(vars(value))
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, list) else value

        return {k: plain(v) for k, v in vars(self).items()}

    def __str__(self) -> str:
        verdict = "certified" if self.ok and self.exhaustive else "ok" if self.ok else "FAILED"
        values = ", ".join(
            f"{k}={v[0]:.6g}..{v[1]:.6g}" if isinstance(v, list) else f"{k}={v:.6g}"
            for k, v in self.params.items()
        )
        if self.ok and self.points is not None:
            verdict = f"{verdict} at {self.points} points"
        what = self.name if self.subject == self.name else f"{self.subject} against {self.name}"
        how = f"{self.impl}{' compiled' if self.compiled else ''}"
        points = f"{'all ' if self.exhaustive else ''}{self.checked:,} inputs"
        lines = [
            f"{verdict}: {what} ({values}) {self.dtype}, {how}",
            f"  worst over {points}: f {self.max_ulp_f:.4g} ulp, f' {self.max_ulp_df:.4g} ulp"
            f" (at x = {self.worst_x:.6g}); wrong signs {self.wrong_signs}, "
            f"wrong inf/nan {self.nonfinite}",
        ]
        if self.words:
            lines.append(f"  {self.words}")
        if self.beyond_f is not None:
            lines.append(f"  off by > 1 ulp: f {self.beyond_f:,}, f' {self.beyond_df:,} inputs")
            lines += [f"    {octave}" for octave in self.worst_octaves]
        elif self.exhaustive:
            lines.append(
                f"  off by > 1 ulp, patterns below 100: f {self.share_off_f:.2%}, "
                f"f' {self.share_off_df:.2%}"
            )
        if self.mean_ulp_f is not None:
            lines.append(
                f"  under N(0,1): mean error f {self.mean_ulp_f:.3g} ulp, f' "
                f"{self.mean_ulp_df:.3g} ulp; off by > 1 ulp: f {self.mass_off_f:.2%}, "
                f"f' {self.mass_off_df:.2%}"
            )
        if self.max_param_error is not None:
            lines.append(f"  parameter gradients: {self.max_param_error:.2g} of the absolute sum")
        lines.append(
            f"  {self.compared_with_text} values compared with the declared text in "
            f"multi-precision, {self.decided_in_multiprecision} decided there; {self.seconds:.1f} s"
        )
        lines += [f"  ! {reason}" for reason in self.reasons]
        lines += [f"    {region}" for region in self.regions]
        return "\n".join(lines)
