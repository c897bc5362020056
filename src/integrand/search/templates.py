"""A user's own space: TOML with a text that holds {choices}, and the options of each.

    name = "mine"
    gradient = "{right} if x > 0 else {left}"
    [choices]
    right = ["2*a*x + b", "softplus(x)"]
    left = ["a*expm1(x) + b", "{tail}*tanh(x)"]
    tail = [0.1, "a"]
    [params.a]
    init = 0.8
    above = 0
    [params.b]
    init = 0.5

Options are put in brackets into the text, which goes through the grammar of specs: nothing is ever
evaluated as code. A parameter that a candidate does not use is left out of it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from integrand.errors import SpecError
from integrand.search.slots import Slots
from integrand.spec import Spec, spec_from_mapping

_PLACE = re.compile(r"\{(\w+)\}")
_LONGEST = 4000


def read_space(path: str | Path) -> Slots:
    """The space in a TOML file. Raises `SpecError`."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"cannot read the space {path}: {error}") from None
    return template_space(data)


def template_space(data: Mapping[str, Any]) -> Slots:
    """The space of a parsed TOML table. Raises `SpecError`."""
    table = data.get("choices", {})
    if not isinstance(table, dict) or not all(isinstance(o, list) and o for o in table.values()):
        raise SpecError("choices must be a table of non-empty lists: [choices] left = ['x', '0']")
    choices = {name: tuple(map(_option, options)) for name, options in table.items()}
    kind = "gradient" if "gradient" in data else "function"
    template = data.get(kind)
    if not isinstance(template, str):
        spec_from_mapping(dict(data), ignore={"choices"})  # names a misspelt field
        raise SpecError("a space needs gradient= or function=, a text that may hold {choices}")
    needs = {n: set(_PLACE.findall(" ".join(options))) for n, options in choices.items()}
    asked = set(_PLACE.findall(template)).union(*needs.values())
    if missing := asked - set(choices):
        raise SpecError(
            f"the choice '{min(missing)}' is used but has no options; [choices] has"
            f" {', '.join(choices) or 'none'}"
        )
    if idle := set(choices) - asked:
        raise SpecError(f"the choice '{min(idle)}' is never used")
    try:
        order = list(TopologicalSorter(needs).static_order())[::-1]
    except CycleError as error:
        raise SpecError(f"choices must not form a cycle: {' -> '.join(error.args[1])}") from None
    fixed = {k: v for k, v in data.items() if k not in ("choices", kind)}

    def spec(text: str, chosen: Mapping[str, str]) -> Spec:
        for name in order:
            text = text.replace(f"{{{name}}}", f"({chosen[name]})")
            if len(text) > _LONGEST:
                raise SpecError(f"a candidate of '{data.get('name')}' is longer than {_LONGEST}")
        return spec_from_mapping(
            fixed | {kind: text, "params": _used(data.get("params", {}), text)}
        )

    first = {name: options[0] for name, options in choices.items()}
    # said now, not counted at the end of a search; which options go together is left to it
    for name, options in choices.items():
        for option in options:
            if _PLACE.search(option):
                continue
            try:
                spec(option, first)
            except SpecError as error:
                raise SpecError(f"the option '{option}' of '{name}': {error}") from None
    return Slots(str(data.get("name")), choices, lambda chosen: spec(template, chosen))


def _option(option: Any) -> str:
    if isinstance(option, bool) or not isinstance(option, str | int | float):
        raise SpecError(f"an option must be a text or a number, got {option!r}")
    return str(option)


def _used(params: Any, text: str) -> Any:
    """The parameters that occur in a text, and those that bound them."""
    if not isinstance(params, dict):
        return params
    words = set(re.findall(r"[A-Za-z]\w*", text))
    kept: dict[str, Any] = {}
    while new := {n: p for n, p in params.items() if n in words and n not in kept}:
        kept |= new
        for p in new.values():
            bounds = (p.get("above"), p.get("below")) if isinstance(p, dict) else ()
            words |= {b for b in bounds if isinstance(b, str)}
    return {n: kept[n] for n in params if n in kept}
