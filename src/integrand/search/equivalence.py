"""Are two candidates the same activation? By canonical text, then by what they compute.

Outputs are those of g, or of f - f(0) where f is declared, divided by their norm, at fixed points
and at two settings of the parameters: the initial one, and one that moves each parameter by a
factor of its own away from its bound. So 2*a*x with a = 0.4 is x*b with b = 0.8, and neither is
0.8*x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from integrand.search.canonical import canonical
from integrand.search.forward import Array, Values, values
from integrand.spec import Spec, dependency_order, evaluate

# irregular, so that no symmetry or period of a candidate hides between them
POINTS = np.sinh(np.linspace(-2.75, 2.8, 47) + 0.013 * np.sin(np.arange(47.0)))
BUCKET = 2.0**-20
_UNIT = 2.0**-53
_ULPS = 8  # of a primitive, its argument's rounding included


@dataclass(frozen=True)
class Signature:
    """`canonical` text; `outputs` (both settings in a row), None where they are not finite, and
    the size of what rounding left in each of them; `freedom` counts the parameters by their
    bounds. `bucket` is a number that equal outputs share but for 1."""

    canonical: str
    freedom: tuple[str, ...]
    outputs: Array | None
    tolerance: float

    @property
    def bucket(self) -> int | None:
        return None if self.outputs is None else round(float(_DIRECTION @ self.outputs) / BUCKET)


_DIRECTION = np.random.default_rng(0).dirichlet(np.ones(2 * len(POINTS)))


def signature(spec: Spec) -> Signature:
    """What `Seen` compares; never raises."""
    text, order = canonical(spec)
    freedom = tuple(
        sorted(f"{p.above is not None}{p.below is not None}{p.trainable}" for p in spec.params.values())
    )
    first, second = (_outputs(spec, v) for v in (spec.values(), moved(spec, order)))
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(first))
    outputs = np.concatenate([first, second])
    if not (np.isfinite(outputs).all() and 0 < norm < np.inf):
        return Signature(text, freedom, None, 0.0)
    tolerance = _rounding(spec) / norm
    # what rounding hides altogether is not compared
    kept = outputs / norm if tolerance < BUCKET / 2 else None
    return Signature(text, freedom, kept, tolerance)


def moved(spec: Spec, order: Sequence[str]) -> dict[str, float]:
    """Parameter values with the i-th of `order` scaled by a factor of its own: its distance from
    its bound, or its place between two bounds, or its value."""
    result: dict[str, float] = {}
    start = spec.values()
    for name in dependency_order(spec.params):
        p, factor = spec.params[name], 1.25 + 0.37 / (2 + order.index(name))
        (low, low0), (high, high0) = (
            (result[b], start[b]) if isinstance(b, str) else (b, b) for b in (p.above, p.below)
        )
        if low is not None and high is not None:
            result[name] = low + (high - low) * ((p.init - low0) / (high0 - low0)) ** factor
        elif low is not None:
            result[name] = low + (p.init - low0) * factor
        elif high is not None:
            result[name] = high - (high0 - p.init) * factor
        else:
            result[name] = p.init * factor if p.init else 0.3 * factor
    return result


def _outputs(spec: Spec, params: Mapping[str, float]) -> Array:
    y = values(spec.node, POINTS, params)
    return y - values(spec.node, 0.0, params) if spec.kind == "function" else y


class _Largest(Values):
    """`Values` that keeps the sum of the largest size of every intermediate result."""

    def __init__(self) -> None:
        self.total = 0.0
        for name in ("add", "sub", "mul", "div", "pow"):
            setattr(self, name, self._sized(getattr(Values, name)))
        self.call = self._sized(Values.call)

    def _sized(self, operation):
        def run(*args):
            result = operation(*args)
            self.total += float(np.max(np.abs(result)))
            return result

        return run


def _rounding(spec: Spec) -> float:
    """The size of rounding errors of the outputs: a few ulps of every intermediate result, carried
    on unchanged. Where a text amplifies them more, equivalents are missed, never invented."""
    o = _Largest()
    numbers = {k: np.float64(v) for k, v in spec.values().items()}
    with np.errstate(all="ignore"):
        evaluate(spec.node, o, POINTS, numbers)
    return 2 * _ULPS * _UNIT * o.total


@dataclass
class Seen:
    """The candidates met so far, each under a key of the caller's."""

    texts: dict[str, str] = field(default_factory=dict)
    buckets: dict[int, list[tuple[str, Signature]]] = field(default_factory=dict)

    def find(self, s: Signature) -> str | None:
        """The key of an equivalent candidate, None where there is none."""
        if s.canonical in self.texts:
            return self.texts[s.canonical]
        return next((key for key, other in self._near(s) if same(s, other)), None)

    def add(self, key: str, s: Signature) -> None:
        """Remember a candidate."""
        self.texts.setdefault(s.canonical, key)
        if s.bucket is not None:
            self.buckets.setdefault(s.bucket, []).append((key, s))

    def _near(self, s: Signature) -> Iterator[tuple[str, Signature]]:
        if s.bucket is not None:
            for bucket in (s.bucket - 1, s.bucket, s.bucket + 1):
                yield from self.buckets.get(bucket, ())


def same(a: Signature, b: Signature) -> bool:
    """Whether two candidates of one kind compute the same, to the rounding of both."""
    if a.outputs is None or b.outputs is None or a.freedom != b.freedom:
        return False
    if a.canonical.partition(":")[0] != b.canonical.partition(":")[0]:
        return False
    return bool(np.abs(a.outputs - b.outputs).max() <= a.tolerance + b.tolerance)
