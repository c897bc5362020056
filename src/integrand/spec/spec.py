"""`Spec` and `Param`: what a person declares about an activation."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any

from integrand.errors import SpecError
from integrand.spec.grammar import RESERVED, Node, leaves, parse

Bound = float | int | str | None


@dataclass(frozen=True)
class Param:
    """A parameter: its initial value, open bounds (numbers or other parameters' names), and
    whether training changes it."""

    init: float
    above: Bound = None
    below: Bound = None
    trainable: bool = True


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The declaration of an activation f by its gradient g = df/dx, or by f itself.

    Args:
        name: lowercase identifier.
        gradient: text of g, finite on all reals, e.g. `"2*a*x + b if x > 0 else a*expm1(x) + b"`.
        function: text of f instead, without jumps.
        params: the parameters that occur in the text.
        anchor: `(point, value)` with f(point) = value; the point may be "-oo" or "oo".
        source: where the formula comes from.

    Raises:
        SpecError: with one sentence about what must hold and what was got.
    """

    name: str
    gradient: str | None = None
    function: str | None = None
    params: Mapping[str, Param] = field(default_factory=dict)
    anchor: tuple[float | str, float] = (0, 0)
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.name):
            raise SpecError(f"a name must be like 'my_act2' (a-z, 0-9, _), got {self.name!r}")
        if (self.gradient is None) == (self.function is None):
            raise SpecError(f"'{self.name}' needs either gradient= or function=, one of the two")
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))
        for name, param in self.params.items():
            _check_param(name, param, self.params)
        _check_bounds(self.params)
        used = {leaf[1] for leaf in leaves(self.node) if leaf[0] == "param"}
        for param in self.params.values():
            used |= {b for b in (param.above, param.below) if isinstance(b, str)}
        if unused := set(self.params) - used:
            raise SpecError(f"parameter '{min(unused)}' is declared but does not occur in the text")
        object.__setattr__(self, "anchor", _check_anchor(self.anchor))
        if self.function is not None and self.anchor != (0, 0):
            raise SpecError("anchor= fixes the constant of an integral: it goes with gradient=")

    def __hash__(self) -> int:
        return hash((self.name, self.sha256))

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("name", "gradient", "function", "anchor", "source")
        return _rebuilt, ({n: getattr(self, n) for n in names}, dict(self.params))

    @cached_property
    def node(self) -> Node:
        """The parsed gradient or function."""
        return parse(self.gradient or self.function or "", self.params)

    @property
    def kind(self) -> str:
        """`"gradient"` or `"function"`: which of the two the text declares."""
        return "gradient" if self.gradient is not None else "function"

    @cached_property
    def sha256(self) -> str:
        """Content hash of everything that determines the mathematics (not name and source)."""
        params = {
            k: (repr(float(p.init)), _plain(p.above), _plain(p.below), p.trainable)
            for k, p in self.params.items()
        }
        content = (self.kind, self.node, list(params.items()), [str(a) for a in self.anchor])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def values(self) -> dict[str, float]:
        """The initial value of every parameter."""
        return {name: float(p.init) for name, p in self.params.items()}


def _rebuilt(fields: dict[str, Any], params: dict[str, Param]) -> Spec:
    return Spec(**fields, params=params)


def _plain(bound: Bound) -> str | None:
    return bound if bound is None or isinstance(bound, str) else repr(float(bound))


def _is_number(value: Any) -> bool:
    # an integer may be beyond all floats
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _check_param(name: str, param: Param, params: Mapping[str, Param]) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name) or name in RESERVED:
        raise SpecError(f"'{name}' cannot name a parameter: use letters, digits and _, not a word")
    if not isinstance(param, Param):
        raise SpecError(f"parameter '{name}' must be a Param, got {param!r}")
    if not isinstance(param.trainable, bool):
        raise SpecError(f"trainable of '{name}' must be true or false, got {param.trainable!r}")
    if not _is_number(param.init):
        raise SpecError(f"the initial value of '{name}' must be a finite number: {param.init!r}")
    for side in ("above", "below"):
        bound = getattr(param, side)
        named = isinstance(bound, str) and bound in params
        if bound is not None and not _is_number(bound) and not named:
            raise SpecError(
                f"{side}= of '{name}' must be a number or another parameter's name, got {bound!r}"
            )


def _check_bounds(params: Mapping[str, Param]) -> None:
    for name, p in params.items():
        for side in ("above", "below"):
            bound = getattr(p, side)
            if bound is None:
                continue
            limit = params[bound].init if isinstance(bound, str) else bound
            if not (p.init > limit if side == "above" else p.init < limit):
                raise SpecError(
                    f"the initial value of '{name}' must be {side} {bound}"
                    f"{f' = {limit}' if isinstance(bound, str) else ''}, got {p.init}"
                )
    try:
        dependency_order(params)
    except CycleError as error:
        raise SpecError(f"bounds must not form a cycle: {' -> '.join(error.args[1])}") from None


def check_values(
    spec: Spec,
    values: Mapping[str, float],
    unknown: Collection[str] = (),
    *,
    closed: bool = False,
) -> None:
    """Raise `SpecError` where parameter values, other than `unknown` ones, break their bounds.

    With `closed` a value may be equal to its bound, up to the rounding of both to fp32.
    """
    for name, p in spec.params.items():
        for side in ("above", "below"):
            bound = getattr(p, side)
            if name in unknown or bound in unknown:
                continue
            limit = values[bound] if isinstance(bound, str) else bound
            value = values[name]
            if limit is not None and closed and _near(value, limit, p, values):
                continue
            if limit is not None and not (value > limit if side == "above" else value < limit):
                raise SpecError(f"'{name}' must be {side} {bound} = {limit:g}, got {value:g}")


def _near(value: float, limit: float, p: Param, values: Mapping[str, float]) -> bool:
    """Whether a value is its bound but for fp32's rounding, of both bounds where there are two."""
    bounds = (values[b] if isinstance(b, str) else b for b in (p.above, p.below))
    size = max(abs(b) for b in bounds if b is not None)
    return abs(value - limit) <= 2.0**-22 * size


def dependency_order(params: Mapping[str, Param]) -> list[str]:
    """Names ordered so that every parameter comes after those that bound it.

    Raises `CycleError`.
    """
    bounds = {k: [b for b in (p.above, p.below) if isinstance(b, str)] for k, p in params.items()}
    order: list[str] = []
    # layers call this at every step, where graphlib takes ten times as long
    while ready := [k for k in bounds if k not in order and all(b in order for b in bounds[k])]:
        order += ready
    if len(order) < len(bounds):
        TopologicalSorter(bounds).prepare()
    return order


def _check_anchor(anchor: Any) -> tuple[float | str, float]:
    try:
        point, value = anchor
    except (TypeError, ValueError):
        raise SpecError(f"anchor must be (point, value), got {anchor!r}") from None
    if not (point in ("-oo", "oo") or _is_number(point)) or not _is_number(value):
        raise SpecError(
            f"anchor must be (point, value) of numbers, the point may be '-oo' or 'oo': {anchor!r}"
        )
    return point, value
