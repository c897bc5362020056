"""`bench`: an activation's time next to that of named baselines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from integrand.cli.arguments import Dtype, activation_of, dtypes, fail, keep, tell

Baseline = Literal[
    "copy", "silu", "gelu", "compiled", "formula_compiled", "transformers", "transformers_compiled",
    "reference", "formula",
]  # fmt: skip


def bench(
    what: tuple[str, ...] = (),
    /,
    dtype: tuple[Dtype, ...] = (),
    shape: tuple[int, int] | None = None,
    params: str | None = None,
    impl: tuple[Literal["auto", "reference", "c"], ...] = (),
    against: tuple[Baseline, ...] = (),
    rounds: int | None = None,
    all: bool = False,
    fresh: bool = False,
    record: bool = False,
    param: tuple[str, ...] = (),
    function: bool = False,
    anchor: str | None = None,
    name: str = "custom",
    json: Path | None = None,
) -> int:
    """Time activations next to named baselines; exit status 1 where a certificate fails.

    Args:
        what: gradients, catalogue names, or FILE.toml (default: xielu).
        dtype: fp32 and bf16 (the default), fp16, fp64; may be repeated.
        shape: rows and columns of the tensor (default: 1 16384, 1024 4096 and 4096 8192).
        params: parameter values such as alpha_p=166,alpha_n=41.25 (default: a module's).
        impl: implementations to time (default: auto); may be repeated.
        against: names of baselines (default: all but the eager formulas); may be repeated.
        rounds: paired measurements of each entry (default: 15; 5 with --all).
        all: the whole catalogue, forward as a user calls it, at 4096 8192, against F.silu.
        fresh: measure again what the file of --json has of this machine and these programs.
        record: append the rows to results/bench/history.csv; so does --json PATH within results/.
        param: a parameter of a text: NAME=INIT[,above=A][,below=B][,fixed]; may be repeated.
        function: the text is f itself, not its gradient.
        anchor: fixes the constant: POINT,VALUE such as -oo,0 (default: f(0) = 0).
        name: what a text is called.
        json: also write the rows as JSON, such as results/bench/xielu/summary.json.
    """
    from integrand import activation, names
    from integrand.declared import values
    from integrand.errors import SpecError
    from integrand.report.machine import environment
    from integrand.timing import KERNEL, SHAPES, USER, campaign, known_rows, table
    from integrand.timing.history import append

    rounds = rounds if rounds is not None else 5 if all else 15
    if rounds < 1 or min(shape or (1,)) < 1:
        raise SpecError(f"--rounds and --shape must be at least 1, got {rounds} and {shape}")
    given = values(params)
    if all and (what or given or param or function or anchor):
        raise SpecError("--all times the catalogue as declared: leave out other declarations")
    chosen = names() if all else what or ("xielu",)
    if all and shape is None:
        shape = SHAPES[-1]
    if all:
        acts: Iterable[Any] = (activation(n) for n in chosen)
    else:
        # bad input is found before anything is measured
        acts = [activation_of(text, param, function, anchor, name) for text in chosen]
        for act in acts:
            _known(act, given)
    machine = environment()
    known = known_rows(json, machine) if json and not fresh else []
    history = _history(json, record)

    def note(rows: list[Any], new: list[Any]) -> None:
        keep(json, {"kind": "bench", "rows": rows, "rounds": rounds})
        if history:
            append(history, new, machine)

    rows, refused = campaign(
        *(acts, dtypes(dtype or ("fp32", "bf16")), [shape] if shape else SHAPES),
        *(known, note, tell, len(chosen)),
        params=given or None,
        impls=impl or ("auto",),
        against=against or (("silu",) if all else None),
        cases=USER[:1] if all else (*KERNEL, *USER),
        rounds=rounds,
        **({"warmup": 1} if all else {}),
    )
    if rows:
        print(table(rows))
    for error in refused:
        fail(str(error), 1)
    return 1 if refused else 0


def _history(json: Path | None, record: bool) -> Path | None:
    """The history that a measurement belongs to: that of its results folder, or of this one."""
    folders = json.parts[:-1] if json else ()
    if "results" in folders and json:
        return Path(*folders[: folders.index("results") + 1]) / "bench" / "history.csv"
    return Path("results/bench/history.csv") if record else None


def _known(act: Any, given: dict[str, float]) -> None:
    from integrand.errors import SpecError

    if unknown := set(given) - set(act.spec.params):
        raise SpecError(
            f"'{min(unknown)}' is not a parameter of {act.name}"
            f" (its parameters: {', '.join(act.spec.params) or 'none'})"
        )
