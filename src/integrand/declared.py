"""What a command line means by TEXT, NAME or FILE.toml: a `Spec`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from integrand.errors import SpecError
from integrand.spec import Param, Spec, read_spec, row

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def declared(
    what: str,
    params: Sequence[str] = (),
    function: bool = False,
    anchor: str | None = None,
    name: str = "custom",
) -> Spec:
    """The spec of a catalogue name, of a TOML file, or of a text with its parameters.

    Args:
        what: a name, a path that ends in .toml, or a gradient such as "a*x if x > 0 else 0".
        params: per parameter of a text, `NAME=INIT[,above=A][,below=B][,fixed]`.
        function: the text is f itself, not its gradient.
        anchor: `POINT,VALUE` for a gradient, such as "-oo,0".
        name: what a text is called.

    Raises:
        SpecError: in one sentence.
    """
    what = what.strip()
    declarations = dict(declaration(p) for p in params)
    is_file = what.endswith(".toml")
    own = {"x", "pi", *declarations}
    is_name = bool(_WORD.fullmatch(what)) and own.isdisjoint(what.split("-"))
    if not (is_file or is_name):
        fields: dict[str, Any] = {"function" if function else "gradient": what}
        if anchor is not None:
            fields["anchor"] = _anchor(anchor)
        return Spec(name=name, params=declarations, **fields)
    if params or function or anchor is not None:
        given = "--param" if params else "--function" if function else "--anchor"
        kind = "file" if is_file else "name"
        raise SpecError(f"{given} belongs to a text; '{what}' is a {kind} that declares its own")
    return read_spec(Path(what)) if is_file else row(what).spec


def declaration(text: str) -> tuple[str, Param]:
    """(name, Param) of `NAME=INIT[,above=A][,below=B][,fixed]`."""
    name, equals, rest = text.partition("=")
    init, *options = rest.split(",")
    if not equals or not name.strip():
        raise SpecError(
            f"a parameter is declared as NAME=INIT[,above=A][,below=B][,fixed], got '{text}'"
        )
    fields: dict[str, Any] = {"init": number(init, text)}
    for option in options:
        side, equals, bound = (part.strip() for part in option.partition("="))
        if option.strip() == "fixed":
            fields["trainable"] = False
        elif side in ("above", "below") and equals:
            fields[side] = bound if _WORD.fullmatch(bound) else number(bound, text)
        else:
            raise SpecError(f"'{option}' in '{text}' must be above=A, below=B or fixed")
    return name.strip(), Param(**fields)


def values(text: str | None) -> dict[str, float]:
    """The parameter values of `NAME=VALUE,NAME=VALUE`."""
    found = {}
    for name, value in values_and_ranges(text).items():
        if isinstance(value, tuple):
            raise SpecError(f"'{name}' takes a single value here, got the range of '{text}'")
        found[name] = value
    return found


def values_and_ranges(text: str | None) -> dict[str, float | tuple[float, float]]:
    """The same, where a value may also be a range `LOW..HIGH`."""
    found: dict[str, float | tuple[float, float]] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise SpecError(f"parameter values are given as NAME=VALUE,NAME=VALUE, got '{text}'")
        low, dots, high = value.partition("..")
        given = (number(low, part), number(high, part)) if dots else number(value, part)
        found[name.strip()] = given
    return found


def number(text: str, where: str) -> float:
    """A finite number, or a `SpecError` that quotes where it was to stand."""
    try:
        value = float(text)
    except ValueError:
        raise SpecError(f"'{text.strip()}' in '{where}' must be a number") from None
    if value - value != 0:
        raise SpecError(f"'{text.strip()}' in '{where}' must be a finite number")
    return value


def _anchor(text: str) -> tuple[float | str, float]:
    point, comma, value = (part.strip() for part in text.partition(","))
    if not comma:
        raise SpecError(f"an anchor is given as POINT,VALUE such as '-oo,0', got '{text}'")
    return point if point in ("oo", "-oo") else number(point, text), number(value, text)
