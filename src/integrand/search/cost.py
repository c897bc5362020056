"""What a candidate costs before there is a kernel: arithmetic per element, and bytes kept."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from integrand.derivation.primitives import PRIMITIVES, call
from integrand.search.profile import Profile
from integrand.spec import Node, Spec

# of the core, in additions: the length of the instruction sequences that replace a call
_CORE = {"exp": 14, "log": 16, "sin": 18, "cos": 18, "sqrt": 6, "rint": 1, "abs": 1, "octave": 4,
         "where": 1, "minimum": 1, "maximum": 1}  # fmt: skip
_OPS = {"neg": 1, "add": 1, "sub": 1, "mul": 1, "div": 4, "pow": 40, "if": 2}
LEVELS = 256  # a gradient with at most as many values is kept as their number


class _Counted:
    """A number that counts the arithmetic it takes part in."""

    def __init__(self, counter: _Counter) -> None:
        self.counter = counter

    def _one(self, *_: Any) -> _Counted:
        return self.counter.add(1)

    def _division(self, *_: Any) -> _Counted:
        return self.counter.add(_OPS["div"])

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _one
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = _one
    __truediv__ = __rtruediv__ = _division


class _Counter:
    """A namespace of primitives that counts instead of computing."""

    bits = 32

    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> _Counted:
        self.total += n
        return _Counted(self)

    def __getattr__(self, name: str) -> Any:
        if name not in _CORE:
            raise AttributeError(name)
        count = self.add
        if name == "octave":
            return lambda *_: (count(_CORE["octave"]), count(0))
        return lambda *_: count(_CORE[name])


@cache
def weight(primitive: str) -> int:
    """Additions that a primitive amounts to, counted in its own definition (for fp32)."""
    counter = _Counter()
    if PRIMITIVES[primitive].definition is None:
        return _CORE[primitive]
    call(counter, primitive, _Counted(counter))
    return counter.total


def cost(spec: Spec) -> float:
    """Additions per element of the declared text: every distinct part that depends on x once.

    An estimate that ranks candidates; the kernel of the other of f and g is of the same kind.
    """
    return float(sum(_of(part) for part in _parts(spec.node)))


def _parts(node: Node) -> set[Node]:
    parts = {node} if _depends(node) else set()
    return parts.union(*(_parts(c) for c in node[1:] if isinstance(c, tuple)))


def _depends(node: Node) -> bool:
    if node[0] == "if":
        return True
    return node == ("x",) or any(isinstance(c, tuple) and _depends(c) for c in node[1:])


def _of(node: Node) -> int:
    match node:
        case ("x",):
            return 0
        case ("call", ("min" | "max"), _, _):
            return 1
        case ("call", name, _):
            return weight(name)
        case ("pow", _, ("num", n)) if float(n).is_integer() and 0 < float(n) <= 64:
            return max(1, math.ceil(math.log2(float(n))))
    return _OPS[node[0]]


def saved_bytes(p: Profile) -> float:
    """Bytes per bf16 element that backward keeps: x, 2; of a gradient with a few values (a step
    function of x) their numbers alone, packed."""
    levels = len(np.unique(p.g))
    return math.ceil(math.log2(max(levels, 2))) / 8 if levels <= LEVELS and _steps(p) else 2.0


def _steps(p: Profile) -> bool:
    # constant within every panel: a step function with its steps at the cuts
    g = p.g.reshape(p.panels.x.shape)
    return bool((g == g[:, :1]).all())
