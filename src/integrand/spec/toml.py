"""Specs as TOML: a file with the fields of `Spec`, in and out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integrand.errors import SpecError
from integrand.spec.spec import Param, Spec

_FIELDS = {"name", "gradient", "function", "params", "anchor", "source"}
_PARAM_FIELDS = {"init", "above", "below", "trainable"}


def spec_from_mapping(data: Mapping[str, Any], ignore: set[str] | None = None) -> Spec:
    """The `Spec` of a parsed TOML table. Fields outside `ignore` and the known ones are errors."""
    if unknown := set(data) - _FIELDS - (ignore or set()):
        raise SpecError(f"unknown field '{min(unknown)}'; a spec has {', '.join(sorted(_FIELDS))}")
    if "name" not in data:
        raise SpecError("a spec needs a name")
    table = data.get("params", {})
    if not isinstance(table, dict) or not all(isinstance(p, dict) for p in table.values()):
        raise SpecError("params must be tables: [params.NAME] with init = ...")
    params = {}
    for name, fields in table.items():
        if (unknown := set(fields) - _PARAM_FIELDS) or "init" not in fields:
            raise SpecError(
                f"parameter '{name}' takes init, above, below, trainable; "
                + (f"got '{min(unknown)}'" if unknown else "init is missing")
            )
        params[name] = Param(**fields)
    fields = {k: data[k] for k in _FIELDS & set(data) if k != "params"}
    for key in ("name", "gradient", "function", "source"):
        if key in fields and not isinstance(fields[key], str):
            raise SpecError(f"{key} must be a text, got {fields[key]!r}")
    return Spec(**fields, params=params)


def read_spec(path: str | Path) -> Spec:
    """The spec in a TOML file. Raises `SpecError` where it is missing or malformed."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {path}: {error}") from None
    return from_toml(text, str(path))


def from_toml(text: str, where: str = "the text") -> Spec:
    """The spec that a TOML text declares; `where` it stands is said in the `SpecError`."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise SpecError(f"{where} is nested too deeply to be a declaration") from None
    except ValueError as error:
        raise SpecError(f"{where} is not TOML: {error}") from None
    return spec_from_mapping(data)


def to_toml(spec: Spec) -> str:
    """The TOML text that `read_spec` reads back to an equal spec."""
    lines = [f"name = {_written(spec.name)}"]
    if spec.gradient is not None:
        lines.append(f"gradient = {_written(spec.gradient)}")
        lines.append(f"anchor = {_written(list(spec.anchor))}")
    else:
        lines.append(f"function = {_written(spec.function)}")
    if spec.source:
        lines.append(f"source = {_written(spec.source)}")
    for name, p in spec.params.items():
        lines += ["", f"[params.{name}]", f"init = {_written(p.init)}"]
        lines += [
            f"{side} = {_written(bound)}"
            for side, bound in (("above", p.above), ("below", p.below))
            if bound is not None
        ]
        if not p.trainable:
            lines.append("trainable = false")
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    # TOML's texts and numbers are JSON's, but for halves of characters and U+007F
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
