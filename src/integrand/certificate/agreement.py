"""Does the scalar program mean what was declared? Sampled against the text in multi-precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from integrand.certificate.antiderivative import Antiderivative
from integrand.certificate.truth import Truth
from integrand.derivation.exact import exact

Array = np.ndarray[Any, Any]

# beyond it, an octave of a gradient may hold too many oscillations to integrate
_FAR = 2.0**14
# the accuracy promised for a tabulated integral, relative to max(|f|, |x|)
_TABLE = 1e-12


def disagreements(truth: Truth, x: Array, quadratures: int) -> tuple[list[str], int]:
    """Sentences about points where fp64 +- its bound misses the declared text, and the number of
    comparisons. f of a declared gradient is integrated at about `quadratures` of the points."""
    fp64 = truth.fp64(x, ["f", "df"])
    gradient = truth.spec.kind == "gradient"
    kinks = truth.breakpoints()
    near = np.flatnonzero((np.abs(x) <= _FAR) & (np.abs(x) >= 2.0**-60))
    integrate = set(near[:: max(1, len(near) // max(1, quadratures))].tolist())
    found: list[str] = []
    count = 0
    for i, point in enumerate(x.tolist()):
        for output in ("f", "df"):
            if output == "f" and gradient:
                true = truth.f_by_quadrature(point) if i in integrate else None
            elif output == "df" and not gradient:
                true = None if point in kinks or point == 0 else truth.df_by_difference(point)
            else:
                true = truth.text(point)
            if true is None:
                continue
            count += 1
            got, bound = (float(a[i]) for a in fp64[output])
            # below it fp64 underflows to 0, which no format here can tell apart
            slack = 1e-300
            slack += _TABLE * max(abs(float(true)), abs(point)) if truth.program.tables else 0.0
            # the quadrature's own digits
            slack += 1e-22 * max(abs(float(true)), abs(point)) if output == "f" else 0.0
            if not _within(got, true, bound + slack):
                found.append(
                    f"the derived program is wrong: {output}({point:.9g}) is {got!r} "
                    f"+- {bound:.2g} but the declared text gives {float(true)!r}"
                )
    return found, count


def _within(got: float, true: Any, bound: float) -> bool:
    if not np.isfinite(got):
        return abs(true) > 1e290 or not np.isfinite(float(true))
    # an infinite bound claims nothing
    return bool(abs(true - got) <= bound) if np.isfinite(bound) else True


def partial_disagreements(truth: Truth, count: int = 12) -> list[str]:
    """Sentences about points where the program's partials differ from central differences of the
    declared text in the parameters."""
    if truth.partial_sentences is not None:
        return truth.partial_sentences
    x = np.random.default_rng(1).standard_normal(count) * 2
    found: list[str] = []
    for name, value in truth.values.items():
        output = f"d_{name}"
        if output not in truth.program.outputs:
            continue
        fp64 = truth.fp64(x, [output, "f"])
        got, bounds = fp64[output]
        size = fp64["f"][0]
        step = 1e-9 * max(1.0, abs(value))
        up, down = (_shifted(truth, name, value + s * step) for s in (1, -1))
        width = (value + step) - (value - step)
        for i, point in enumerate(x.tolist()):
            above, below = up(point), down(point)
            if above is None or below is None:
                continue
            true = float((above - below) / width)
            scale = abs(true) + abs(float(size[i])) + abs(point)
            error = abs(float(got[i]) - true) / scale if scale else 0.0
            # a central difference with step 1e-9 is right to about 1e-16 of the scale
            if error > 1e-10 + float(bounds[i]) / max(scale, 1e-300):
                found.append(
                    f"the partial derivative by {name} is wrong: at x = {point:.9g} it is "
                    f"{float(got[i])!r}, differences of the declared text give {true!r}"
                )
    truth.partial_sentences = found
    return found


def _shifted(truth: Truth, name: str, value: float) -> Any:
    values: Mapping[str, float] = {**truth.values, name: value}
    if truth.spec.kind == "gradient":
        return Antiderivative(truth.spec, values)
    mp = truth.mp
    params = {k: mp.mpf(v) for k, v in values.items()}
    node = truth.spec.node
    return lambda x: truth.settled(lambda: exact(node, mp.mpf(x), params, mp))
