"""`train`, `study`, `export` and `evaluate`: language models that differ in their activation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from integrand.cli.arguments import fail, keep


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
    keep(json, summary)
    from integrand.report.tables import study

    print(study(summary["variants"]).plain())
    lost = [v for v in summary["variants"] if v["diverged"]]
    for variant in lost:
        fail(f"{variant['name']} {divergence(variant['diverged'])}", 1)
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
                f" of {_between(plan.seeds_at_least, plan.seeds_at_most)} seeds follow"
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
    keep(json, summary)
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
    keep(json, {"kind": "evaluate", "model": model, "tasks": found})
    for task, metrics in found.items():
        for metric, value in metrics.items():
            print(f"{task}  {metric}  {value:.4g}")
    return 0


def _between(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"
