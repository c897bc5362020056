"""A box of parameter values: points in it, and the certificates at these points as one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from integrand.certificate.certificate import Certificate
from integrand.errors import CertificationError, SpecError
from integrand.spec import Spec, check_values
from integrand.spec.spec import dependency_order

Range = tuple[float, float]
# beyond it a box has more corners than points worth spending on them
CORNERS = 5


def split(
    params: Mapping[str, float | Sequence[float]] | None,
) -> tuple[dict[str, float], dict[str, Range]]:
    """Single values, and ranges (low, high)."""
    single: dict[str, float] = {}
    ranges: dict[str, Range] = {}
    for name, value in (params or {}).items():
        if isinstance(value, Sequence):
            if len(value) != 2 or not value[0] < value[1]:
                raise SpecError(f"a range of '{name}' must be (low, high), got {value!r}")
            ranges[name] = (float(value[0]), float(value[1]))
        else:
            single[name] = value
    return single, ranges


def box_points(
    spec: Spec, single: Mapping[str, float], ranges: Mapping[str, Range], count: int
) -> list[dict[str, float]]:
    """About `count` points of a box that the parameters' bounds allow: its corners, then points of
    low discrepancy, by the logarithm of the distance to a parameter's bound where it has one.

    Raises:
        SpecError: an unknown parameter, or bounds that exclude the whole box.
    """
    if unknown := (set(ranges) | set(single)) - set(spec.params):
        raise SpecError(
            f"'{min(unknown)}' is not a parameter of {spec.name} "
            f"(its parameters: {', '.join(spec.params) or 'none'})"
        )
    order = [name for name in dependency_order(spec.params) if name in ranges]
    corners = list(itertools.product((0.0, 1.0), repeat=len(order)))
    places = corners if len(order) <= CORNERS else [corners[0], corners[-1]]
    # additive recurrence by powers of the root of g^(d + 1) = g + 1
    g = 2.0
    for _ in range(60):
        g = (1 + g) ** (1 / (len(order) + 1))
    places += [
        tuple((0.5 + k * g ** -(d + 1)) % 1 for d in range(len(order)))
        for k in range(1, count - len(places) + 1)
    ]
    found, refused = [], None
    for place in places:
        values = {**spec.values(), **single}
        for name, u in zip(order, place, strict=True):
            values[name] = _between(spec, values, name, ranges[name], u)
        try:
            check_values(spec, values)
        except SpecError as error:
            refused = error
            continue
        found.append(values)
    if not found and refused:
        raise refused
    return found


def _between(spec: Spec, values: Mapping[str, float], name: str, ends: Range, u: float) -> float:
    if u in (0.0, 1.0):
        return ends[int(u)]
    p = spec.params[name]
    for bound in (p.above, p.below):
        origin = values[bound] if isinstance(bound, str) else bound
        if origin is not None and (ends[0] - origin) * (ends[1] - origin) > 0:
            return origin + (ends[0] - origin) * ((ends[1] - origin) / (ends[0] - origin)) ** u
    return ends[0] + (ends[1] - ends[0]) * u


def combined(
    certs: Sequence[Certificate], ranges: Mapping[str, Range], seconds: float
) -> Certificate:
    """The certificates at points of a box as one: the worst of every number, the sums of counts."""
    failing = [c for c in certs if not c.ok]
    worst = max(failing or certs, key=lambda c: max(c.max_ulp_f, c.max_ulp_df))
    biggest: dict[str, Any] = {
        name: max((v for c in certs if (v := getattr(c, name)) is not None), default=None)
        for name in (
            *("max_ulp_f", "max_ulp_df", "mean_ulp_f", "mean_ulp_df", "mass_off_f", "mass_off_df"),
            *("share_off_f", "share_off_df", "max_param_error"),
        )
    }
    counted: dict[str, Any] = {
        name: sum(getattr(c, name) for c in certs)
        for name in (
            *("wrong_signs", "nonfinite", "checked"),
            *("decided_in_multiprecision", "compared_with_text"),
        )
    }
    inputs = "every input" if worst.exhaustive else "sampled inputs"
    reasons = [f"{len(failing)} of {len(certs)} points of the box fail"] if failing else []
    reasons += [f"at {_text(c.params)}: {c.reasons[0]}" for c in failing[:5]]
    return replace(
        worst,
        **biggest,
        **counted,
        params={k: list(ranges[k]) if k in ranges else v for k, v in worst.params.items()},
        points=len(certs),
        worst_params=worst.params,
        ok=not failing,
        reasons=reasons,
        seconds=seconds,
        words=f"checked on {inputs} at {len(certs)} points of the box; between them nothing is "
        f"claimed. Worst at {_text(worst.params)}",
    )


def refuse(why: str) -> CertificationError:
    """What a box cannot be combined with."""
    return CertificationError(f"a box of parameter values cannot be certified {why}")


def _text(params: Mapping[str, object]) -> str:
    return ", ".join(f"{k}={v:.6g}" for k, v in params.items())
