"""The command line: every command is a few lines over the public Python API."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

Dtype = Literal["bf16", "fp16", "fp32", "fp64"]
Baseline = Literal[
    "copy", "silu", "gelu", "compiled", "formula_compiled", "transformers", "transformers_compiled",
    "reference", "formula",
]  # fmt: skip


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

    data = to_data(_activation(what, param, function, anchor, name))
    _keep(json, data)
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

    act = _activation(what, param, function, anchor, name)
    text = act.source(target, _dtypes((dtype,))[0], values(params) or None)
    _keep(json, {"kind": "show", "name": act.name, "target": target, "source": text})
    print(text, end="")
    return 0


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
        subjects = [_activation(text, param, function, anchor, name) for text in what]
    if output_only:
        if given or compiled or exhaustive or impl != "auto":
            raise SpecError("--output-only is checked at the declared values: give --dtype alone")
        return _certify_output_only(subjects, _dtypes(dtype or ("bf16", "fp16")), json)
    rows = []
    for place, act in enumerate(subjects):
        for kind in _dtypes(dtype or (("fp32",) if exhaustive else ("bf16", "fp16"))):
            if all:
                _tell(
                    f"{place + 1} of {len(names())}: {act.name} {str(kind).removeprefix('torch.')}"
                )
            cert = measure(
                *(act, kind, given or None),
                impl=impl,
                compiled=compiled,
                exhaustive=exhaustive,
                points=points,
                progress=_tell if exhaustive or _is_box(given) else None,
            )
            rows.append(cert.to_dict())
            if not all or not cert.ok:
                print(cert)
    failed = sum(not r["ok"] for r in rows)
    if all:
        from integrand.report.tables import certificates

        print(certificates(rows).plain())
        print(f"{len(rows) - failed} of {len(rows)} certificates hold")
    _keep(json, {"kind": "certify", "rows": rows})
    return 1 if failed else 0


def _certify_output_only(subjects: Iterable[Any], kinds: Sequence[Any], json: Path | None) -> int:
    from integrand.certificate import certify_output_only as measure

    rows = [measure(act, kind) for act in subjects for kind in kinds]
    for row in rows:
        from_y = f", f' = {row['gradient']} of y = f(x)" if "gradient" in row else ""
        print(f"{row['name']} {row['dtype']}: {row['offered']}{from_y}; {row['reason']}")
    _keep(json, {"kind": "output_only", "rows": rows})
    return 0 if all(row["offered"] == "exact" for row in rows) else 1


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
        acts = [_activation(text, param, function, anchor, name) for text in chosen]
        for act in acts:
            _known(act, given)
    machine = environment()
    known = known_rows(json, machine) if json and not fresh else []
    history = _history(json, record)

    def keep(rows: list[Any], new: list[Any]) -> None:
        _keep(json, {"kind": "bench", "rows": rows, "rounds": rounds})
        if history:
            append(history, new, machine)

    rows, refused = campaign(
        *(acts, _dtypes(dtype or ("fp32", "bf16")), [shape] if shape else SHAPES),
        *(known, keep, _tell, len(chosen)),
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
        _fail(str(error), 1)
    return 1 if refused else 0


def _history(json: Path | None, record: bool) -> Path | None:
    """The history that a measurement belongs to: that of its results folder, or of this one."""
    folders = json.parts[:-1] if json else ()
    if "results" in folders and json:
        return Path(*folders[: folders.index("results") + 1]) / "bench" / "history.csv"
    return Path("results/bench/history.csv") if record else None


def list_(json: Path | None = None, markdown: bool = False) -> int:
    """List the catalogue: names, titles, sources.

    Args:
        json: also write the rows as JSON.
        markdown: print the catalogue page instead.
    """
    from integrand.spec import names, row, to_toml

    rows = [row(name) for name in names()]
    _keep(json, {"kind": "list", "rows": [
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


def train(
    variants: tuple[str, ...] = (),
    /,
    recipe: str = "demo",
    data: str | None = None,
    tokenizer: str = "tokenizer.json",
    out: Path = Path("runs/train"),
    steps: int | None = None,
    seed: int | None = None,
    accumulate: int | None = None,
    parallel: Literal["none", "ddp", "fsdp"] | None = None,
    compile: bool | None = None,
    dry_run: bool = False,
    sink: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = (),
    json: Path | None = None,
) -> int:
    """Train matched decoders that differ in their activation alone, one seed: no evidence.

    Many ranks: torchrun --nproc-per-node 8 -m integrand train ... --parallel fsdp

    Args:
        variants: catalogue names, gated names such as swiglu, or FILE.toml (default: the
            recipe's; swiglu, relu2 and xielu of the demo).
        recipe: demo, apertus-small, sparsity(-wide, -induced), or a published run: xielu-1b,
            xielu-3b, apertus-8b, relu2-wins-1b.
        data: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME
            (default: the recipe's).
        tokenizer: the tokenizer.json of a published run.
        out: where runs are kept; the same command goes on with a run that was stopped.
        steps: steps of each run (default: the recipe's).
        seed: of initial weights and of the order of batches (default: the recipe's).
        accumulate: micro-batches that a step is split into (default: the recipe's).
        parallel: of torchrun's ranks (default: the recipe's).
        compile: torch.compile (default: the recipe's).
        dry_run: print what each variant amounts to and train nothing.
        sink: where metrics go as well: tensorboard, trackio or wandb; may be repeated.
        json: also write the summary as JSON.
    """
    import dataclasses

    from integrand.train import matched
    from integrand.train.alarms import divergence
    from integrand.train.describe import describe
    from integrand.train.matched import variant_config
    from integrand.trained import recipe as of_name

    config, chosen, activations = of_name(variants, data, steps, seed, recipe, tokenizer)
    given = {"parallel": parallel, "compile": compile, "accumulate": accumulate}
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    config = dataclasses.replace(config, **changes)
    if dry_run:
        found = [describe(variant_config(config, v), activations[v.activation]) for v in chosen]
        for variant, own in zip(chosen, found, strict=True):
            print(f"{variant.name}: {own}")
        print(f"{len(found)} runs, {sum(own.flops for own in found):.3g} FLOP in all")
        return 0
    summary = matched(config, chosen, out, activations=activations, sinks=sink)
    _keep(json, summary)
    from integrand.report.tables import study

    print(study(summary["variants"]).plain())
    lost = [v for v in summary["variants"] if v["diverged"]]
    for variant in lost:
        _fail(f"{variant['name']} {divergence(variant['diverged'])}", 1)
    return 1 if lost else 0


def study(
    recipe: str = "ladder",
    /,
    data: str | None = None,
    tokenizer: str | None = None,
    out: Path | None = None,
    size: tuple[str, ...] = (),
    accumulate: int | None = None,
    resolve: float | None = None,
    seeds: tuple[int, int] | None = None,
    runs: int | None = None,
    threads: int | None = None,
    timing: bool = False,
    dry_run: bool = False,
    json: Path | None = None,
) -> int:
    """Train matched variants over sizes and seeds, and say what the differences are worth.

    The same command goes on after a stop; several processes or machines that run it on one folder
    share the work. Records of runs, summary.json and report.html lie in the folder.

    Args:
        recipe: ladder (seven activations and ablations of xIELU), smoke (minutes, no evidence), or
            a published run with seeds: xielu-1b, xielu-3b, relu2-wins-1b, apertus-8b.
        data: python-docs (the default), a .txt, .jsonl or .parquet file, a folder of them, or
            hf:NAME:SUBSET such as hf:HuggingFaceFW/fineweb-edu:sample-10BT.
        tokenizer: the tokenizer.json of a published run.
        out: the folder (default: runs/study/RECIPE).
        size: sizes of the ladder, ascending: 0.1M, 0.2M, 0.5M, 1.2M (the default), 2M, 6M, 20M,
            60M; may be repeated.
        accumulate: micro-batches that a step is split into.
        resolve: the difference in nats per token that the number of seeds is chosen for.
        seeds: fewest and most seeds (default: 5 10).
        runs: train at most this many runs here.
        threads: of this process: 1 for each of several processes on one machine.
        timing: measure the step times of all variants by turns and train nothing; on a machine
            that does nothing else.
        dry_run: print what each variant amounts to and train nothing.
        json: also write the summary as JSON.
    """
    import torch

    from integrand.errors import SpecError
    from integrand.report import write_report
    from integrand.report.study_words import headline
    from integrand.train.files import read_json
    from integrand.train.studies import check_rung, due, run_study, studies, time_rung
    from integrand.train.studies.work import check_folder

    for name, given in (("threads", threads), ("runs", runs)):
        if given is not None and given < 1:
            raise SpecError(f"--{name} must be at least 1, got {given}")
    if threads is not None:
        torch.set_num_threads(threads)
    plan = studies(
        *(recipe,),
        **{"data": data, "tokenizer": tokenizer, "sizes": size, "accumulate": accumulate},
        **{"resolve": resolve, "seeds": seeds},
    )
    folder = out or Path("runs/study") / plan.name
    if dry_run:
        for rung in plan.rungs:
            first = [c for c in due(plan, []) if c.rung.name == rung.name]
            print(
                f"{rung.name}: {len(first)} runs known to be due, among them "
                f"{sum(c.arm == 'tune' for c in first)} of the sweep; {len(rung.variants)} variants"
                f" of {plan.seeds_at_least} to {plan.seeds_at_most} seeds follow"
            )
            for variant, found in zip(rung.variants, check_rung(plan, rung), strict=True):
                print(f"{rung.name} {variant.name}: {found}")
        return 0
    if timing:
        check_folder(plan, folder)
        for rung in plan.rungs:
            time_rung(plan, rung, folder)
        if not (folder / "records").is_dir():
            return 0
    else:
        run_study(plan, folder, at_most=runs)
    page = write_report(folder)
    summary = read_json(folder / "summary.json")
    _keep(json, summary)
    print(*headline(summary), page, sep="\n")
    failed = [v for v in summary["variants"] if v["diverged"]] or [
        c for c in summary["checks"] if not c["ok"]
    ]
    return 1 if failed else 0


def export(run: Path, out: Path, /) -> int:
    """Write a finished run as a folder that transformers loads: weights, config, tokeniser.

    Args:
        run: the folder of one run, such as runs/train/xielu.
        out: the folder to write.
    """
    from integrand.train import export_run

    print(export_run(run, out))
    return 0


def evaluate(
    model: str,
    /,
    tasks: str = "lambada_openai",
    limit: int | None = None,
    batch_size: int = 8,
    json: Path | None = None,
) -> int:
    """Measure an exported model on tasks of EleutherAI's lm-evaluation-harness.

    Args:
        model: a folder written by `integrand export`, or any model that transformers loads.
        tasks: names of tasks, separated by commas.
        limit: of examples per task.
        batch_size: examples at once.
        json: also write the results as JSON.
    """
    from integrand.train.harness import evaluate as measure

    found = measure(model, tasks.split(","), limit=limit, batch_size=batch_size)
    _keep(json, {"kind": "evaluate", "model": model, "tasks": found})
    for task, metrics in found.items():
        for metric, value in metrics.items():
            print(f"{task}  {metric}  {value:.4g}")
    return 0


def inspect(where: str, /, html: Path | None = None, json: Path | None = None) -> int:
    """Show a checkpoint's activation parameters by depth, reading no other tensor.

    Args:
        where: a safetensors or GGUF file, a folder with a checkpoint, or a hub id such as
            swiss-ai/Apertus-8B-2509 or ORG/NAME@REVISION.
        html: also write a page with figures.
        json: also write the layers as JSON.
    """
    from integrand.models import inspect_checkpoint
    from integrand.report.depth import explanations, summary, table, write_page

    found = inspect_checkpoint(where)
    _keep(json, found.to_dict())
    print(summary(found), table(found).plain(), *explanations(found), sep="\n")
    if html is not None:
        print(write_page(found, html))
    return 0


def sparsity(
    model: str,
    /,
    data: str | None = None,
    tokens: int = 16_384,
    speeds: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> int:
    """Measure how sparse a model's feed-forward blocks are, and what leaving neurons out costs.

    Args:
        model: a run's folder, a folder of runs, a folder that transformers loads, or a hub id such
            as SparseLLM/relu2-100B.
        data: the text: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME
            (default: the held-out text of a run).
        tokens: of the text; one row of the model's context at least.
        speeds: what benchmarks/decode.py has written on this machine, for the decode speed.
        out: a folder for NAME.json of each model, summary.json and report.html; the same command
            goes on after a stop.
        json: also write the summary as JSON.
    """
    from integrand.report import write_report
    from integrand.report.sparsity_page import left, results
    from integrand.sparsity.measuring import measure

    if tokens < 1:
        from integrand.errors import SpecError

        raise SpecError(f"--tokens must be at least 1, got {tokens}")
    summary = measure(model, out, data, tokens, speeds)
    _keep(json, summary)
    print(results(summary).plain(), *left(summary), sep="\n")
    if out is not None:
        print(write_report(out))
    return 0


def search(
    recipe: Literal["smoke", "gradient", "swish"] = "smoke",
    /,
    data: str = "python-docs",
    out: Path | None = None,
    storage: str | None = None,
    workers: int = 1,
    threads: int = 1,
    evaluations: int | None = None,
    seed: int = 0,
    strategy: Literal["exhaustive", "random", "evolution", "controller"] | None = None,
    space: Path | None = None,
    confirm: int = 0,
    json: Path | None = None,
) -> int:
    """Search gradients or functions for activations; cheap measurements come first.

    The same command goes on after a stop; several processes or machines that run it share the
    work. The store, summary.json and report.html lie in the folder.

    Args:
        recipe: smoke (seconds, no evidence), gradient (evolution in the space of gradients, hours),
            or swish (all one-unit functions of the Swish paper's space, an hour or two).
        data: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME; the search
            reads one half of the documents.
        out: the folder (default: runs/search/RECIPE).
        storage: URL of a database for many machines, such as postgresql+psycopg2://HOST/NAME
            (default: an SQLite file in the folder).
        workers: evaluations side by side, each in a process of its own.
        threads: of each.
        evaluations: candidates in all (default: the recipe's).
        seed: of the strategy.
        strategy: what proposes candidates (default: the recipe's).
        space: FILE.toml with a space of your own (default: the recipe's).
        confirm: then train so many of the best beside SwiGLU, ReLU2 and xIELU, on fresh seeds and
            sizes and on the other half of the documents.
        json: also write the summary as JSON.
    """
    import dataclasses

    from integrand.errors import SpecError
    from integrand.search import read_space
    from integrand.search.board import front_table
    from integrand.search.conclude import conclude
    from integrand.search.documents import split_documents
    from integrand.search.engine import search as run
    from integrand.search.page import ladder, standings, write_page
    from integrand.search.recipes import RECIPES
    from integrand.train.files import read_json

    for name, given in (("workers", workers), ("threads", threads)):
        if given < 1:
            raise SpecError(f"--{name} must be at least 1, got {given}")
    folder = out or Path("runs/search") / recipe
    options = {
        "evaluations": evaluations,
        "strategy": strategy,
        "space": space and read_space(space),
    }
    changes: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    chosen = dataclasses.replace(RECIPES[recipe](data, folder), seed=seed, **changes)
    summary = run(chosen, folder, storage=storage, workers=workers, threads=threads)
    if confirm:
        unread = split_documents(data, folder / "text").confirm
        conclude(folder, str(unread), confirm)
        summary = read_json(folder / "summary.json")
    _keep(json, summary)
    tables = [ladder(summary["rungs"]).plain(), front_table(summary)]
    if references := summary["references"]:
        tables.insert(1, standings(references).plain())
    print(*tables, sep="\n\n")
    print(write_page(folder))
    return 0


def report(folder: Path, /) -> int:
    """Write report.html and report.json from the results in a folder, or fill a page's tables.

    Args:
        folder: such as runs/demo; or a .md page, whose marked tables are made again from the
            results files they name.
    """
    from integrand.report import write_report
    from integrand.report.readme import refresh
    from integrand.train.files import read_json

    if folder.suffix == ".md":
        folder.write_text(refresh(folder), encoding="utf-8")
        print(folder)
        return 0
    found = folder / "summary.json"
    if found.is_file() and read_json(found).get("kind") == "search":
        from integrand.search.page import write_page

        print(write_page(folder))
        return 0
    print(write_report(folder))
    return 0


def demo(data: str = "python-docs", out: Path = Path("runs/demo"), quick: bool = False) -> int:
    """Derive, certify, time and train xIELU, and write a page that shows it.

    Args:
        data: python-docs, a .txt, .jsonl or .parquet file, a folder of them, or hf:NAME.
        out: where results and report.html go; the same command goes on after a stop.
        quick: a few steps at a small size, to see that everything runs.
    """
    from integrand.demo import demo as run

    print(run(data, out, quick))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "derive": derive,
    "show": show,
    "certify": certify,
    "bench": bench,
    "list": list_,
    "train": train,
    "study": study,
    "export": export,
    "evaluate": evaluate,
    "inspect": inspect,
    "sparsity": sparsity,
    "report": report,
    "search": search,
    "demo": demo,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 a check failed, 2 bad input, 130 stopped."""
    # threads that spin while they wait take the core from the one they wait for as soon as
    # anything else runs; OpenMP reads this when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from integrand.errors import CertificationError, Error

    try:
        return _parse(list(sys.argv[1:] if args is None else args))()
    except CertificationError as error:
        return _fail(str(error), 1)
    except Error as error:
        return _fail(str(error), 2)
    except BrokenPipeError:
        # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "stopped", 130)


def _parse(args: list[str]) -> Callable[[], int]:
    """The command with its arguments, not yet run."""
    import tyro

    from integrand.errors import SpecError

    def deferred(command: Callable[..., int]) -> Callable[..., Any]:
        @functools.wraps(command)
        def keep(*values: Any, **options: Any) -> Callable[[], int]:
            return lambda: command(*values, **options)

        return keep

    # a text or an anchor may begin with a minus; options have two
    args = [f" {a}" if a[:1] == "-" and a[:2] != "--" and a != "-h" else a for a in args]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                {name: deferred(command) for name, command in COMMANDS.items()},
                prog="integrand",
                description="You write the gradient. integrand writes the activation.",
                args=args,
                config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        command = args[0] if args and args[0] in COMMANDS else ""
        raise SpecError(
            f"{_first_words(said.getvalue())}; see `integrand {command + ' ' if command else ''}"
            "--help`"
        ) from None


def _first_words(box: str) -> str:
    """The message inside a drawn box, without its frame."""
    lines = [line.strip("╭╮╰╯│─━┃┏┓┗┛+-| ") for line in box.splitlines()[1:]]
    message = []
    for line in lines:
        if not line and message:
            break
        message += [line] if line else []
    return " ".join(message).rstrip(".:") or "the command line cannot be read"


def _activation(
    what: str | None, param: Sequence[str], function: bool, anchor: str | None, name: str
) -> Any:
    from integrand.activation import derive as derived
    from integrand.declared import declared

    return derived(declared(what or "", param, function, anchor, name))


def _known(act: Any, given: dict[str, float]) -> None:
    from integrand.errors import SpecError

    if unknown := set(given) - set(act.spec.params):
        raise SpecError(
            f"'{min(unknown)}' is not a parameter of {act.name}"
            f" (its parameters: {', '.join(act.spec.params) or 'none'})"
        )


def _is_box(given: dict[str, Any]) -> bool:
    return any(isinstance(v, tuple) for v in given.values())


def _dtypes(names: Sequence[str]) -> tuple[Any, ...]:
    import torch

    known = {
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "fp32": torch.float32,
        "fp64": torch.float64,
    }
    return tuple(known[name] for name in names)


def _keep(path: Path | None, data: dict[str, Any]) -> None:
    if path is None:
        return
    from integrand.report.machine import environment
    from integrand.train.files import write_json
    from integrand.train.runs import command

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": command(), "environment": environment(), **data})


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(message: str, status: int) -> int:
    _tell("integrand: " + " ".join(message.split()))
    return status


if __name__ == "__main__":
    sys.exit(main())
