"""Runs of a study, one after the other; as many processes as one likes share the folder."""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from integrand.errors import Error
from integrand.models.width import relative_difference
from integrand.train.activations import chosen
from integrand.train.batches import Batches, Windows
from integrand.train.describe import Description, describe
from integrand.train.files import read_json, write_json
from integrand.train.loop import build, compiled_loss, one_step, summed_loss, train
from integrand.train.matched import LARGEST_DIFFERENCE, check_matched
from integrand.train.optimisers import make_optimizers
from integrand.train.progress import clock
from integrand.train.runs import command, environment
from integrand.train.studies.claims import claimed
from integrand.train.studies.plan import Cell, Plan, Record, Rung, due
from integrand.train.tokens import TokenData, prepare

WAIT_SECONDS = 15.0
LOOKED_AT = 50_000_000
Tell = Callable[[str], None]


def run_study(
    plan: Plan,
    out_dir: Path | str,
    *,
    cache_dir: Path | str | None = None,
    at_most: int | None = None,
    quiet: bool = False,
) -> list[Record]:
    """Train what `plan` still lacks in out_dir; the records of all its finished runs.

    out_dir/records/ID.json is one finished run; out_dir/work/ID a run under way, which any process
    goes on with after a stop; out_dir/claims says who holds what. Several processes, on one machine
    or many, run the same command on the same folder. `at_most` runs are trained here.
    """
    out_dir = Path(out_dir)
    records = read_records(out_dir)
    _keep_plan(plan, out_dir)
    for rung in plan.rungs:
        check_rung(plan, rung)
    tokens = prepare(plan.rungs[0].config.data, cache_dir)
    trained = 0
    while at_most is None or trained < at_most:
        records = read_records(out_dir)
        cells = due(plan, records)
        if not cells:
            break
        for cell in cells:
            with claimed(out_dir / "claims", cell.id) as ours:
                if not ours or (out_dir / "records" / f"{cell.id}.json").exists():
                    continue
                if not quiet:
                    _tell(_outlook(cell, cells, records))
                _run(plan, cell, out_dir, tokens, quiet)
                trained += 1
            break
        else:
            # all that is due runs elsewhere; what follows from it is not known yet
            time.sleep(WAIT_SECONDS)
    return records


def read_records(out_dir: Path) -> list[Record]:
    """Every finished run in a study's folder."""
    return [read_json(path) for path in sorted((out_dir / "records").glob("*.json"))]


def check_rung(plan: Plan, rung: Rung) -> list[Description]:
    """What each variant amounts to; raises unless all are matched.

    Weights and FLOPs agree within 0.1 %, and tensors that variants share start equal bit by bit
    (looked at below 50 M parameters; above, each is drawn from its own name and the seed alone).
    """
    cells = [Cell(rung, v, "main", rung.config.lr, 0) for v in rung.variants]
    configs = [cell.config(plan.share) for cell in cells]
    given = [plan.activations.get(v.activation) for v in rung.variants]
    found = [describe(c, a) for c, a in zip(configs, given, strict=True)]
    if found[0].parameters < LOOKED_AT:
        acts = [chosen(c, a) for c, a in zip(configs, given, strict=True)]
        check_matched(rung.variants, configs, acts)
    for variant, own in zip(rung.variants, found, strict=True):
        for what in ("weights", "flops_per_token"):
            count, first = getattr(own, what), getattr(found[0], what)
            if relative_difference(count, first) > LARGEST_DIFFERENCE:
                raise Error(
                    f"variants must have equal {what} within 0.1 %, got {count:,.0f} for "
                    f"{variant.name} and {first:,.0f} for {rung.variants[0].name} at {rung.name}"
                )
    return found


def time_rung(
    plan: Plan, rung: Rung, out_dir: Path | str, *, rounds: int = 40, quiet: bool = False
) -> dict[str, Any]:
    """Seconds of a training step per variant, measured by turns; also written to timing/RUNG.json.

    One step of each variant per round, so that a machine that slows down slows all of them; the
    ratio of a variant is the median over rounds of its step by the baseline's in the same round.
    Ablations are left out. Run it on a machine that does nothing else.
    """
    variants = [v for v in rung.variants if not v.like]
    steps: list[Callable[[], Any]] = []
    tokens = prepare(rung.config.data)
    batches = Batches(Windows(tokens.train, rung.config.context), rung.config.batch_size, 0)
    batch = batches.at(0)
    for variant in variants:
        config = Cell(rung, variant, "main", 1e-4, 0).config(plan.share)
        model = build(config, chosen(config, plan.activations.get(variant.activation)))
        loss = compiled_loss() if config.compile else summed_loss
        steps.append(_step(model, config, batch, loss))
    for step in steps:
        step(), step(), step()
    seconds: list[list[float]] = []
    for number in range(rounds):
        taken = []
        for step in steps:
            begun = time.perf_counter()
            step()
            taken.append(time.perf_counter() - begun)
        seconds.append(taken)
        if not quiet and number % 10 == 9:
            _tell(f"timing {rung.name}: round {number + 1} of {rounds}")
    result = {
        "variants": {v.name: _timed([row[i] for row in seconds], [row[0] for row in seconds])
                     for i, v in enumerate(variants)},
        "rounds": rounds,
        "environment": environment(torch.device("cpu")),
    }  # fmt: skip
    folder = Path(out_dir) / "timing"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{rung.name}.json", result)
    return result


def _step(model: Any, config: Any, batch: Any, loss: Any) -> Callable[[], Any]:
    optimizers = make_optimizers(config, model)
    return lambda: one_step(model, optimizers, batch, config, nullcontext(), loss)


def _timed(own: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    from scipy.stats import binom

    ratios = sorted(a / b for a, b in zip(own, base, strict=True))
    # the interval of a median by order statistics: no assumption about the noise
    low = int(binom.ppf(0.025, len(ratios), 0.5))
    return {
        "step_s": statistics.median(own),
        "ratio": statistics.median(ratios),
        "ratio_ci": [ratios[low], ratios[len(ratios) - 1 - low]],
    }


def _run(plan: Plan, cell: Cell, out_dir: Path, tokens: TokenData, quiet: bool) -> None:
    folder = out_dir / "work" / cell.id
    config = cell.config(plan.share)
    record = train(
        config,
        folder,
        activation=plan.activations.get(cell.variant.activation),
        tokens=tokens,
        label=cell.id,
        quiet=quiet,
    )
    (out_dir / "records").mkdir(exist_ok=True)
    here = {
        "rung": cell.rung.name,
        "variant": cell.variant.name,
        "arm": cell.arm,
        "lr": cell.lr,
        "config": config.to_dict(),
    }
    write_json(out_dir / "records" / f"{cell.id}.json", {**here, **record})
    shutil.rmtree(folder, ignore_errors=True)


def _keep_plan(plan: Plan, out_dir: Path) -> None:
    """study.json: the plan; a folder holds the runs of one study only."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "study.json"
    if path.exists() and (known := read_json(path))["name"] != plan.name:
        raise Error(f"{out_dir} holds the study '{known['name']}'; choose another folder")
    write_json(path, {**plan.to_dict(), "command": command()})


def _outlook(cell: Cell, cells: Sequence[Cell], records: Sequence[Record]) -> str:
    """What is run next and how long the runs that are known to be due would take one by one."""
    speed: dict[str, float] = {}
    for record in records:
        speed[record["rung"]] = record["tokens"] / record["wall_s"]
    left = 0.0
    for c in cells:
        config = c.rung.config
        tokens = config.steps * config.batch_size * config.context
        if c.rung.name in speed:
            left += tokens * (1.0 if c.arm == "main" else 0.5) / speed[c.rung.name]
    unknown = "" if all(c.rung.name in speed for c in cells) else " and larger sizes"
    time_left = f", about {clock(left)} of one process{unknown}" if left else ""
    return f"{len(records)} runs done, {len(cells)} due{time_left}; next: {cell.id}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
