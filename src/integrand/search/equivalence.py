"""Are two candidates the same activation? By canonical text, then by what they compute.

Outputs are those of g, or of f - f(0) where f is declared, divided by their norm, at fixed points,
then between the cuts of both candidates, and at three settings of the parameters: the initial one,
and two that move each parameter by a factor of its own, away from its bound and towards it, or
beyond 0 where it has none. So 2*a*x with a = 0.4 is x*b with b = 0.8, and neither is 0.8*x; nor is
max(a*x, relu(x)) with a = 1 another text of a*relu(x).

Of two texts of one function one may overflow where the other does not, as exp(x)*sigmoid(-x) and
sigmoid(x): what is no activation stands for nothing that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from integrand.search.canonical import canonical
from integrand.search.cuts import cuts
from integrand.search.forward import Array, Values, values
from integrand.search.profile import profile
from integrand.search.validity import validity
from integrand.spec import Spec, dependency_order, evaluate

# irregular, so that no symmetry or period of a candidate hides between them
POINTS = np.sinh(np.linspace(-2.75, 2.8, 47) + 0.013 * np.sin(np.arange(47.0)))
BUCKET = 2.0**-20
_UNIT = 2.0**-53
_ULPS = 8  # of a primitive, its argument's rounding included


@dataclass(frozen=True)
class Signature:
    """`canonical` text; `outputs` at all `settings` of the parameters, None where they are not
    finite; their `norm` before division, and the size of rounding errors in them. `bucket` is a
    number that equal outputs share but for 1; `ok` whether this is an activation at all."""

    spec: Spec
    canonical: str
    settings: tuple[dict[str, float], ...]
    outputs: Array | None
    norm: float = 1.0
    tolerance: float = 0.0

    @property
    def bucket(self) -> int | None:
        if self.outputs is None:
            return None
        return round(float(_DIRECTION[: len(self.outputs)] @ self.outputs) / BUCKET)

    @cached_property
    def ok(self) -> bool:
        return validity(profile(self.spec)).ok

    @property
    def freedom(self) -> list[str]:
        """The parameters by what bounds and trains them."""
        return sorted(
            f"{p.above is None}{p.below is None}{p.trainable}" for p in self.spec.params.values()
        )


_DIRECTION = np.random.default_rng(0).dirichlet(np.ones(3 * len(POINTS)))


def signature(spec: Spec) -> Signature:
    """What `Seen` compares; never raises."""
    text, order = canonical(spec)
    moves = [moved(spec, order, power) for power in (1, -1)] if spec.params else []
    settings = spec.values(), *moves
    found = [_outputs(spec, v, POINTS) for v in settings]
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(found[0]))
    outputs = np.concatenate(found)
    if not (np.isfinite(outputs).all() and 0 < norm < np.inf):
        return Signature(spec, text, settings, None)
    tolerance = _rounding(spec) / norm
    # what rounding hides altogether is not compared
    kept = outputs / norm if tolerance < BUCKET / 2 else None
    return Signature(spec, text, settings, kept, norm, tolerance)


def moved(spec: Spec, order: Sequence[str], power: int) -> dict[str, float]:
    """Parameter values with the i-th of `order` scaled by a `power`, 1 or -1, of a factor of its
    own: its distance from its bound, or its place between two bounds, or its value, which changes
    its sign as well for -1."""
    result: dict[str, float] = {}
    start = spec.values()
    for name in dependency_order(spec.params):
        # above 3: the tangents of exp and cosh that pass 0 have slopes e and 1.5
        p, factor = spec.params[name], (3 + 0.37 / (2 + order.index(name))) ** power
        low, high = _limit(p.above, result), _limit(p.below, result)
        up = p.init - (_limit(p.above, start) or 0.0)
        down = (_limit(p.below, start) or 0.0) - p.init
        if low is not None and high is not None:
            result[name] = low + (high - low) * (up / (up + down)) ** factor
        elif low is not None:
            result[name] = low + up * factor
        elif high is not None:
            result[name] = high - down * factor
        else:
            result[name] = power * factor * (p.init or 0.3)
    return result


def _limit(bound: float | str | None, numbers: Mapping[str, float]) -> float | None:
    return numbers[bound] if isinstance(bound, str) else bound


def _outputs(spec: Spec, params: Mapping[str, float], x: Array) -> Array:
    y = values(spec.node, x, params)
    return y - values(spec.node, 0.0, params) if spec.kind == "function" else y


class _Sized:
    """`Values` that adds up the largest size of every intermediate result."""

    pi, num, select = Values.pi, Values.num, staticmethod(Values.select)

    def __init__(self) -> None:
        self.total = 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(Values, name)

        def run(*args: Any) -> Any:
            result = operation(*args)
            self.total += float(np.max(np.abs(result)))
            return result

        return run


def _rounding(spec: Spec) -> float:
    """The size of rounding errors of the outputs: a few ulps of every intermediate result, carried
    on unchanged. Where a text amplifies them more, equivalents are missed, never invented."""
    o = _Sized()
    numbers = {k: np.float64(v) for k, v in spec.values().items()}
    with np.errstate(all="ignore"):
        evaluate(spec.node, o, POINTS, numbers)
    return 2 * _ULPS * _UNIT * o.total


@dataclass
class Seen:
    """The candidates met so far, each under a key of the caller's."""

    texts: dict[str, list[tuple[str, Signature]]] = field(default_factory=dict)
    buckets: dict[int, list[tuple[str, Signature]]] = field(default_factory=dict)

    def find(self, s: Signature) -> str | None:
        """The key of an equivalent candidate, None where there is none."""
        near = ((key, other) for key, other in self._near(s) if same(s, other))
        alike = chain(self.texts.get(s.canonical, ()), near)
        return next((key for key, other in alike if other.ok or not s.ok), None)

    def add(self, key: str, s: Signature) -> None:
        """Remember a candidate."""
        self.texts.setdefault(s.canonical, []).append((key, s))
        if s.bucket is not None:
            self.buckets.setdefault(s.bucket, []).append((key, s))

    def _near(self, s: Signature) -> Iterator[tuple[str, Signature]]:
        if s.bucket is not None:
            for bucket in (s.bucket - 1, s.bucket, s.bucket + 1):
                yield from self.buckets.get(bucket, ())


def same(a: Signature, b: Signature) -> bool:
    """Whether two candidates of one kind compute the same, to the rounding of both."""
    if a.outputs is None or b.outputs is None:
        return False
    if a.freedom != b.freedom or a.spec.kind != b.spec.kind:
        return False
    tolerance = a.tolerance + b.tolerance
    if np.abs(a.outputs - b.outputs).max() > tolerance:
        return False
    for p, q in zip(a.settings, b.settings, strict=True):
        x = _between({*cuts(a.spec.node, p), *cuts(b.spec.node, q)})
        y, z = _outputs(a.spec, p, x) / a.norm, _outputs(b.spec, q, x) / b.norm
        if not (np.abs(y - z) <= tolerance).all():
            return False
    return True


def _between(edges: set[float]) -> Array:
    """Points inside every interval between cuts and beyond them: the fixed points may miss a short
    piece, or a distant one."""
    low, high = min(edges, default=0.0), max(edges, default=0.0)
    ends = np.array([min(POINTS[0], low - 1), *sorted(edges), max(POINTS[-1], high + 1)])
    width = np.diff(ends)
    inside = ends[:-1, None] + width[:, None] * np.array([0.21, 0.5, 0.83])
    # cuts that rounding alone tells apart have no piece between them
    return inside[width > 1e-12].ravel()
