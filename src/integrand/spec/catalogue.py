"""The catalogue: activations as data, one TOML file per family, read through `Spec`."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from integrand.errors import SpecError
from integrand.spec.spec import Spec
from integrand.spec.toml import spec_from_mapping

_EXTRA = {"title", "status", "note", "aliases", "buffers"}


@dataclass(frozen=True)
class Row:
    """A catalogue entry: the spec, and what is known about its origin.

    `buffers` are saved with a module beside its parameters, for checkpoints that expect them.
    """

    spec: Spec
    title: str
    family: str
    status: str
    note: str = ""
    aliases: tuple[str, ...] = ()
    buffers: tuple[tuple[str, float], ...] = ()


@cache
def _tables() -> dict[str, tuple[str, dict[str, Any]]]:
    tables: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in sorted(files("integrand.catalogue").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml") and file.name != "gates.toml":
            for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
                tables[name] = (file.name.removesuffix(".toml"), table)
    return tables


@cache
def _aliases() -> dict[str, str]:
    return {a: name for name, (_, t) in _tables().items() for a in t.get("aliases", ())}


def names() -> list[str]:
    """The names of every activation in the catalogue."""
    return sorted(_tables())


@cache
def row(name: str) -> Row:
    """The catalogue entry of a name or alias. Raises `SpecError` with the nearest names."""
    tables = _tables()
    key = _aliases().get(name, name)
    if key not in tables:
        if name in gates():
            gate = gates()[name]["gate"]
            raise SpecError(
                f"'{name}' is a gated form: use integrand.nn.Gated(integrand.activation('{gate}'))"
            )
        near = difflib.get_close_matches(name, [*tables, *_aliases()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`integrand list` shows them all"
        raise SpecError(f"no activation is named '{name}'; {hint}")
    family, table = tables[key]
    spec = spec_from_mapping({"name": key, **table}, ignore=_EXTRA)
    return Row(
        spec=spec,
        title=table.get("title", key),
        family=family,
        status=table.get("status", ""),
        note=table.get("note", ""),
        aliases=tuple(table.get("aliases", ())),
        buffers=tuple(table.get("buffers", {}).items()),
    )


def saved_buffers(spec: Spec) -> dict[str, float]:
    """The extra buffers of the catalogue's row, where the spec is that row's."""
    if spec.name in _tables() and row(spec.name).spec.sha256 == spec.sha256:
        return dict(row(spec.name).buffers)
    return {}


@cache
def gates() -> MappingProxyType[str, dict[str, Any]]:
    """The usual gated forms: name -> the gate's row, and the row applied to the other branch."""
    file = files("integrand.catalogue") / "gates.toml"
    return MappingProxyType(tomllib.loads(file.read_text(encoding="utf-8")))
