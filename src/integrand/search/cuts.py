"""Where a text changes its piece, or may have a pole: found on arrays, in a fraction of a
millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from integrand.search.forward import Array, values
from integrand.spec import Node

_KINKED = ("abs", "sign", "relu", "softsign")
_SCALES = 2.0 ** (np.arange(-24, 53) / 4)
_SCAN = np.unique(np.concatenate([-_SCALES, _SCALES, np.linspace(-16, 16, 641)]))
_MOST = 40  # of |sin(x)| and the like the cuts nearest 0


def cuts(node: Node, params: Mapping[str, float]) -> tuple[float, ...]:
    """Ascending: the bounds of conditions, the roots of what `abs sign relu softsign min max`
    take, and those of denominators, double ones too, within 8192 of 0."""
    found: list[float] = []
    for kind, part in _suspects(node):
        if kind == "bound":
            found.append(float(values(part, 0.0, params)))
            continue
        y = values(part, _SCAN, params)
        found += _roots(part, params, y)
        if kind == "pole":
            found += _touching(part, params, y)
    near = sorted({c + 0.0 for c in found if abs(c) < _SCAN[-1]}, key=abs)[:_MOST]
    return tuple(sorted(near))


def _suspects(node: Node) -> Iterator[tuple[str, Node]]:
    match node:
        case ("if", _, bound, _, _):
            yield "bound", bound
        case ("call", ("min" | "max"), a, b):
            yield "root", ("sub", a, b)
        case ("call", name, a) if name in _KINKED:
            yield "root", a
        case ("div", _, b):
            yield "pole", b
        case ("pow", a, ("neg", _)):
            yield "pole", a
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _suspects(child)


def _roots(node: Node, params: Mapping[str, float], y: Array) -> list[float]:
    zero = y == 0
    # an argument that is 0 over a stretch changes its piece at the ends alone
    inner = zero & np.roll(zero, 1) & np.roll(zero, -1)
    change = np.flatnonzero(np.sign(y[:-1]) * np.sign(y[1:]) < 0)
    return [*_SCAN[zero & ~inner].tolist(), *_bisected(node, params, change).tolist()]


def _bisected(node: Node, params: Mapping[str, float], i: NDArray[np.intp]) -> Array:
    if not len(i):
        return np.empty(0)
    low, high = _SCAN[i], _SCAN[i + 1]
    rising = values(node, high, params) > 0
    for _ in range(52):
        middle = (low + high) / 2
        left = (values(node, middle, params) > 0) == rising
        low, high = np.where(left, low, middle), np.where(left, middle, high)
    return (low + high) / 2


def _touching(node: Node, params: Mapping[str, float], y: Array) -> list[float]:
    """Where the node may touch 0 without a change of sign, as (x - c)^2 does: the least |node| is
    below a millionth of what it is a step of the scan away."""
    size, sign = np.abs(y), np.sign(y)
    least = (size[1:-1] <= size[:-2]) & (size[1:-1] < size[2:])
    i = 1 + np.flatnonzero(least & (sign[1:-1] == sign[:-2]) & (sign[1:-1] == sign[2:]))
    low, x, high = _SCAN[i - 1], _SCAN[i], _SCAN[i + 1]
    found, k = size[i], np.arange(len(i))
    for _ in range(14 if len(i) else 0):  # each a 16th of the one before, down to rounding
        nodes = low + (high - low) * np.linspace(0, 1, 33)[:, None]
        sizes = np.abs(values(node, nodes, params))
        j = np.argmin(sizes, 0)
        x, found = nodes[j, k], sizes[j, k]
        low, high = nodes[np.maximum(j - 1, 0), k], nodes[np.minimum(j + 1, 32), k]
    return x[found <= 1e-6 * np.minimum(size[i - 1], size[i + 1])].tolist()
