"""df and the partials as functions of y = f(x), where f has an inverse in closed form.

`invert` finds them piece by piece and confirms them in multi-precision; the result is a scalar
program whose leaf `x` stands for y. Where df is 0 on an interval, its inputs may share one y.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from integrand import cache
from integrand.derivation.derive import Derivation, code_digest
from integrand.derivation.program import Program
from integrand.errors import DerivationError, Error
from integrand.spec import Spec

_DRAWS = 8


@dataclass(frozen=True)
class Inverse:
    """df and the partials from y alone, or the reason why there is none; constants count as fixed.

    - `program`: outputs df and d_NAME as functions of y, which its leaf `x` stands for; its output
      f is y itself. None where there is no inverse.
    - `formulas`: text of `df` and `d_NAME` in y.
    - `reason`: one sentence where there is no inverse, else empty.
    """

    program: Program | None
    formulas: Mapping[str, str]
    reason: str = ""


def invert(spec: Spec, derivation: Derivation) -> Inverse:
    """The inverse of a derivation, from the cache when it is there."""
    key = f"inverse-{code_digest()[:12]}-{spec.sha256}.json"
    stored = cache.read(key)
    if stored is not None:
        data = json.loads(stored)
        program = data["program"] and Program.from_json(data["program"])
        return Inverse(program, data["formulas"], data["reason"])
    try:
        found = _invert(spec, derivation)
    except Error as error:
        found = Inverse(None, {}, str(error))
    program = found.program and found.program.to_json()
    data = {"program": program, "formulas": found.formulas, "reason": found.reason}
    cache.write(key, json.dumps(data).encode())
    return found


def admissible(spec: Spec) -> Iterator[dict[str, float]]:
    """Parameter values with the constants at theirs: first the initial ones, then random ones."""
    from integrand.derivation.pieces import draws
    from integrand.errors import SpecError
    from integrand.spec import check_values

    constants = {n: float(p.init) for n, p in spec.params.items() if not p.trainable}
    for _, values in zip(range(_DRAWS), draws(spec, spread=4.0), strict=False):
        values = {**values, **constants}
        try:
            check_values(spec, values)
        except SpecError:
            continue
        yield values


def _invert(spec: Spec, derivation: Derivation) -> Inverse:
    import sympy as sp

    from integrand.derivation.guard import lower
    from integrand.derivation.symbols import X
    from integrand.derivation.text import to_text
    from integrand.derivation.unpeel import in_terms_of_output, verify_inverse

    sign = _direction(spec, derivation.program)
    if derivation.tables:
        raise DerivationError("f is tabulated: it has no closed form to invert")
    # constants have no gradient
    names = ["df", *(f"d_{name}" for name, p in spec.params.items() if p.trainable)]
    exprs = {name: derivation.expression(spec, name) for name in ("f", *names)}
    inverse = in_terms_of_output(spec, exprs, sign)
    verify_inverse(exprs, inverse, admissible(spec))
    constants = {f"d_{name}": sp.S.Zero for name in spec.params if f"d_{name}" not in inverse}
    program = lower(spec, {"f": X, **inverse, **constants}, {})
    y = sp.Symbol("y", real=True)
    return Inverse(program, {name: to_text(e.subs(X, y)) for name, e in inverse.items()})


def _direction(spec: Spec, program: Program) -> int:
    """1 where f never falls, -1 where it never rises, for every admissible parameter value."""
    import numpy as np

    from integrand.derivation.measure import sweep
    from integrand.derivation.numeric import NumpyOps
    from integrand.derivation.program import evaluate

    o, points = NumpyOps(64), sweep(fine=True)
    signs: set[int] = set()
    for place, values in enumerate(admissible(spec)):
        params = {k: o.array(v) for k, v in values.items()}
        with np.errstate(all="ignore"):
            (df,) = evaluate(program, o, o.array(points), params, ["df"])
        df = np.broadcast_to(df, points.shape)
        rising, falling = points[df > 1e-12], points[df < -1e-12]
        signs |= ({1} if len(rising) else set()) | ({-1} if len(falling) else set())
        where = "" if place == 0 else " at " + ", ".join(f"{k} = {v:g}" for k, v in values.items())
        if len(rising) and len(falling):
            fall = falling[np.argmin(np.abs(falling))]
            rise = rising[np.argmin(np.abs(rising))]
            raise DerivationError(
                f"f' changes sign{where} (f rises at x = {rise:.3g}, falls at x = {fall:.3g}), so"
                " that two x share one f(x)" + (": bound the parameters" if where else "")
            )
        if len(signs) > 1:
            raise DerivationError(
                f"whether f rises or falls depends on its parameters (it turns{where}): bound them"
            )
    return signs.pop() if signs else 1
