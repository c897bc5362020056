"""`derive`, `show` and `list`: what a declaration is and becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from integrand.cli.arguments import Dtype, activation_of, dtypes, keep


def derive(
    what: str,
    /,
    param: tuple[str, ...] = (),
    function: bool = False,
    anchor: str | None = None,
    name: str = "custom",
    json: Path | None = None,
) -> int:
    """Derive an activation from its gradient and print it, verified.

    Args:
        what: a gradient such as "a*x if x > 0 else 0", a catalogue name, or FILE.toml.
        param: a parameter of a text: NAME=INIT[,above=A][,below=B][,fixed]; may be repeated.
        function: the text is f itself, not its gradient.
        anchor: fixes the constant: POINT,VALUE such as -oo,0 (default: f(0) = 0).
        name: what a text is called.
        json: also write the result as JSON.
    """
    from integrand.report.describe import to_data, to_terminal

    data = to_data(activation_of(what, param, function, anchor, name))
    keep(json, data)
    print(to_terminal(data))
    return 0


def show(
    what: str,
    /,
    target: Literal["torch", "c", "triton", "jax"] = "torch",
    dtype: Dtype = "fp32",
    params: str | None = None,
    param: tuple[str, ...] = (),
    function: bool = False,
    anchor: str | None = None,
    name: str = "custom",
    json: Path | None = None,
) -> int:
    """Print one readable file with f, its derivative and a layer, which needs integrand no more.

    Args:
        what: a gradient, a catalogue name, or FILE.toml.
        target: torch, c, triton or jax.
        dtype: what the C or Triton source stores.
        params: values to fold in such as alpha_p=166,alpha_n=41.25 (the others: as declared).
        param: a parameter of a text: NAME=INIT[,above=A][,below=B][,fixed]; may be repeated.
        function: the text is f itself, not its gradient.
        anchor: fixes the constant: POINT,VALUE such as -oo,0 (default: f(0) = 0).
        name: what a text is called.
        json: also write the source as JSON.
    """
    from integrand.declared import values

    act = activation_of(what, param, function, anchor, name)
    text = act.source(target, dtypes((dtype,))[0], values(params) or None)
    keep(json, {"kind": "show", "name": act.name, "target": target, "source": text})
    print(text, end="")
    return 0


def list_(json: Path | None = None, markdown: bool = False) -> int:
    """List the catalogue: names, titles, sources.

    Args:
        json: also write the rows as JSON.
        markdown: print the catalogue page instead.
    """
    from integrand.spec import names, row, to_toml

    rows = [row(name) for name in names()]
    keep(json, {"kind": "list", "rows": [
        {"name": r.spec.name, "title": r.title, "family": r.family, "status": r.status,
         "source": r.spec.source, "aliases": list(r.aliases), "toml": to_toml(r.spec)}
        for r in rows
    ]})  # fmt: skip
    if markdown:
        from integrand.report.catalogue_page import catalogue_markdown

        print(catalogue_markdown(), end="")
        return 0
    width = max(len(r.spec.name) for r in rows)
    for r in rows:
        print(f"{r.spec.name:<{width}}  {r.title}  ({r.spec.source})")
    return 0
