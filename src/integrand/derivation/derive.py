"""`derive_program`: spec -> derivation, cached on disk by content hash.

A cached derivation holds the scalar program and the expressions as data; reading it imports no
SymPy.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from integrand import cache
from integrand.derivation.budget import limited
from integrand.derivation.program import Program
from integrand.spec import Spec

SYMPY_SECONDS = 8.0


@dataclass(frozen=True)
class Derivation:
    """What was derived from a spec.

    - `program`: the scalar program of f, df and every partial
    - `trees`: the SymPy expressions `f`, `df`, `d_NAME` as JSON
    - `formula`: text of f for people
    - `tables`: per table, the trees of its integrand and of its closed form (or None)
    - `path`: how the integral was found
    - `verified`: largest deviation of f, df and partials from the declared text, multi-precision
    - `seconds`: time the derivation took
    """

    program: Program
    formula: str
    trees: Mapping[str, Any]
    tables: Mapping[str, tuple[Any, Any]]
    path: tuple[str, ...]
    verified: Mapping[str, float]
    seconds: float

    @cached_property
    def classes(self) -> dict[str, Any]:
        """The SymPy functions of the tables."""
        from integrand.derivation.integrate import table_class
        from integrand.derivation.tree import from_tree

        return {
            name: table_class(
                name, from_tree(h, {}, {}), None if shown is None else from_tree(shown, {}, {})
            )
            for name, (h, shown) in self.tables.items()
        }

    def expression(self, spec: Spec, name: str) -> Any:
        """The SymPy expression of `f`, `df` or `d_NAME`."""
        from integrand.derivation.symbols import symbols
        from integrand.derivation.tree import from_tree

        return from_tree(self.trees[name], symbols(spec), self.classes)


def derive_program(spec: Spec) -> Derivation:
    """The derivation of a spec, from the cache when it is there.

    Raises:
        SpecError: the declaration breaks a rule that only its analysis can see.
        DerivationError: no antiderivative, or one that quadrature does not confirm.
    """
    key = f"derivation-{code_digest()[:12]}-{spec.sha256}.json"
    stored = cache.read(key)
    if stored is None:
        with cache.locked(key):
            # another process may have derived it while this one waited
            stored = cache.read(key)
            if stored is None:
                with limited(spec.gradient or spec.function or spec.name):
                    derivation = _derive(spec)
                cache.write(key, json.dumps(_to_json(derivation)).encode())
                return derivation
    return _from_json(json.loads(stored))


@functools.cache
def code_digest() -> str:
    """Digest of the code that derives: what an earlier version derived is not taken over."""
    digest = hashlib.sha256()
    for room in ("derivation", "spec"):
        for path in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _derive(spec: Spec) -> Derivation:
    from integrand.derivation.compose import compose
    from integrand.derivation.domain import check_domain
    from integrand.derivation.guard import lower
    from integrand.derivation.text import to_text
    from integrand.derivation.tree import to_tree
    from integrand.derivation.verify import verify, verify_program

    start = time.perf_counter()
    check_domain(spec)
    composed = compose(spec, SYMPY_SECONDS)
    verified = verify(spec, composed)
    exprs = {
        "f": composed.f,
        "df": composed.df,
        **{f"d_{name}": e for name, e in composed.partials.items()},
    }
    program = lower(spec, exprs, composed.integrals.tables)
    quadrature = "fixed-node quadrature" in composed.integrals.paths
    verified["program"] = verify_program(spec, program, quadrature)
    tables = {
        name: (to_tree(c.integrand), None if c.shown is None else to_tree(c.shown))
        for name, c in composed.integrals.classes.items()
    }
    return Derivation(
        program=program,
        formula=to_text(composed.f),
        trees={name: to_tree(e) for name, e in exprs.items()},
        tables=tables,
        path=tuple(composed.integrals.paths) or ("powers of x",),
        verified=verified,
        seconds=time.perf_counter() - start,
    )


def _to_json(d: Derivation) -> dict[str, Any]:
    return {
        "program": d.program.to_json(),
        "formula": d.formula,
        "trees": d.trees,
        "tables": d.tables,
        "path": d.path,
        "verified": d.verified,
        "seconds": d.seconds,
    }


def _from_json(data: dict[str, Any]) -> Derivation:
    return Derivation(
        program=Program.from_json(data["program"]),
        formula=data["formula"],
        trees=data["trees"],
        tables={k: tuple(v) for k, v in data["tables"].items()},
        path=tuple(data["path"]),
        verified=data["verified"],
        seconds=data["seconds"],
    )
