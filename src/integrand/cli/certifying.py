"""`certify`: an implementation against the exact values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from integrand.cli.arguments import Dtype, activation_of, dtypes, keep, tell


def certify(
    what: tuple[str, ...] = (),
    /,
    dtype: tuple[Dtype, ...] = (),
    params: str | None = None,
    impl: Literal["auto", "reference", "c"] = "auto",
    compiled: bool = False,
    exhaustive: bool = False,
    points: int = 192,
    output_only: bool = False,
    all: bool = False,
    param: tuple[str, ...] = (),
    function: bool = False,
    anchor: str | None = None,
    name: str = "custom",
    json: Path | None = None,
) -> int:
    """Measure an implementation against the exact values; exit status 1 where it fails.

    Args:
        what: gradients, catalogue names, or FILE.toml.
        dtype: bf16 and fp16 (the default: every bit pattern), fp32, fp64 (sampled); repeatable.
        params: parameter values such as alpha_p=166,alpha_n=41.25 (default: initial values), or
            ranges such as alpha_p=0.05..10: the box is checked at `points` points.
        impl: the implementation.
        compiled: measure it under torch.compile.
        exhaustive: all 2**32 fp32 inputs (the default dtype is then fp32); a minute or two.
        points: of a box of parameter values: its corners, then points spread inside.
        output_only: a backward that keeps f(x) alone instead of x: exact, approximate or refused.
        all: the whole catalogue.
        param: a parameter of a text: NAME=INIT[,above=A][,below=B][,fixed]; may be repeated. Or a
            range of values to try: NAME=LOW..HIGH.
        function: the text is f itself, not its gradient.
        anchor: fixes the constant: POINT,VALUE such as -oo,0 (default: f(0) = 0).
        name: what a text is called.
        json: also write the rows as JSON, such as results/certify/catalogue/summary.json.
    """
    from integrand import activation, names
    from integrand.certificate import certify as measure
    from integrand.errors import SpecError

    if all == bool(what):
        raise SpecError("certify takes activations, or --all for the whole catalogue")
    from integrand.declared import values_and_ranges

    # a range stands for values to try, not for a declaration
    tried = [p for p in param if ".." in p]
    param = tuple(p for p in param if ".." not in p)
    given = values_and_ranges(",".join([*([params] if params else []), *tried]))
    if all and (given or param or function or anchor):
        raise SpecError("--all certifies the catalogue as declared: leave out other declarations")
    if all:
        subjects: Iterable[Any] = (activation(name) for name in names())
    else:
        subjects = [activation_of(text, param, function, anchor, name) for text in what]
    if output_only:
        if given or compiled or exhaustive or impl != "auto":
            raise SpecError("--output-only is checked at the declared values: give --dtype alone")
        return _certify_output_only(subjects, dtypes(dtype or ("bf16", "fp16")), json)
    rows = []
    for place, act in enumerate(subjects):
        for kind in dtypes(dtype or (("fp32",) if exhaustive else ("bf16", "fp16"))):
            if all:
                tell(
                    f"{place + 1} of {len(names())}: {act.name} {str(kind).removeprefix('torch.')}"
                )
            cert = measure(
                *(act, kind, given or None),
                impl=impl,
                compiled=compiled,
                exhaustive=exhaustive,
                points=points,
                progress=tell if exhaustive or _is_box(given) else None,
            )
            rows.append(cert.to_dict())
            if not all or not cert.ok:
                print(cert)
    failed = sum(not r["ok"] for r in rows)
    if all:
        from integrand.report.tables import certificates

        print(certificates(rows).plain())
        print(f"{len(rows) - failed} of {len(rows)} certificates hold")
    keep(json, {"kind": "certify", "rows": rows})
    return 1 if failed else 0


def _certify_output_only(subjects: Iterable[Any], kinds: Sequence[Any], json: Path | None) -> int:
    from integrand.certificate import certify_output_only as measure

    rows = [measure(act, kind) for act in subjects for kind in kinds]
    for row in rows:
        from_y = f", f' = {row['gradient']} of y = f(x)" if "gradient" in row else ""
        print(f"{row['name']} {row['dtype']}: {row['offered']}{from_y}; {row['reason']}")
    keep(json, {"kind": "output_only", "rows": rows})
    return 0 if all(row["offered"] == "exact" for row in rows) else 1


def _is_box(given: dict[str, Any]) -> bool:
    return any(isinstance(v, tuple) for v in given.values())
