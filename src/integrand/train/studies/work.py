"""Runs of a study, one after the other; as many processes as one likes share the folder."""

import json
import re
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from integrand.errors import BusyError, DataError, Error
from integrand.models.width import relative_difference
from integrand.spec import names, row
from integrand.train.activations import chosen
from integrand.train.batches import Batches, Windows
from integrand.train.config import TrainConfig
from integrand.train.describe import Description, describe
from integrand.train.distributed import join
from integrand.train.files import read_json, write_json
from integrand.train.loop import autocast, build, compiled_loss, one_step, summed_loss, train
from integrand.train.matched import LARGEST_DIFFERENCE, check_matched
from integrand.train.optimisers import make_optimizers
from integrand.train.progress import clock
from integrand.train.runs import command, environment
from integrand.train.studies.claims import claimed
from integrand.train.studies.plan import Cell, Plan, Record, Rung, due, seeds, spread
from integrand.train.studies.statistics import min_detectable_effect, scipy
from integrand.train.tokens import TokenData, prepare

WAIT_SECONDS = 15.0
LOOKED_AT = 50_000_000
SETTLED = ("rates", "tuning_seeds", "share", "widenings")  # once runs were made
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
    scipy("stats")  # missing, it would be missed after the first runs
    check_folder(plan, out_dir)
    for rung in plan.rungs:
        check_rung(plan, rung)
    tokens = prepare(plan.rungs[0].config.data, cache_dir)
    _same_data(tokens, read_records(out_dir), out_dir)
    if not quiet:
        _tell_passes(plan, tokens)
    trained, waiting = 0, False
    while True:
        records = read_records(out_dir)
        cells = due(plan, records)
        _keep_plan(plan, out_dir, records, cells)
        _sweep(out_dir, records)
        if not cells or (at_most is not None and trained >= at_most):
            return records
        for cell in cells:
            with claimed(out_dir / "claims", cell.id) as ours:
                if not ours or (out_dir / "records" / f"{cell.id}.json").exists():
                    continue
                if not quiet:
                    _tell(_outlook(cell, cells, records))
                try:
                    _run(plan, cell, out_dir, tokens, quiet)
                except BusyError:
                    continue  # its process had stood still for so long that its claim was free
                trained += 1
            waiting = False
            if not quiet:
                _tell_spread(plan, cell.rung, records, read_records(out_dir))
            break
        else:
            # all that is due runs elsewhere; what follows from it is not known yet
            if not waiting and not quiet:
                _tell(f"waiting for {len(cells)} runs of other processes")
            waiting = True
            time.sleep(WAIT_SECONDS)


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
    Ablations are left out. Run it on a machine that does nothing else, of the runs' own kind.
    """
    scipy("stats")
    variants = [v for v in rung.variants if not v.like]
    tokens = prepare(rung.config.data)
    batches = Batches(Windows(tokens.train, rung.config.context), rung.config.batch_size, 0)
    _, device = join(rung.config)
    batch = batches.at(0).to(device)
    steps: list[Callable[[], Any]] = []
    for variant in variants:
        config = Cell(rung, variant, "main", 1e-4, 0).config(plan.share)
        act = chosen(config, plan.activations.get(variant.activation))
        steps.append(_step(build(config, act).to(device), config, batch, tokens.separator))
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
        "environment": environment(device),
    }  # fmt: skip
    folder = Path(out_dir) / "timing"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{rung.name}.json", result)
    return result


def _step(model: Any, config: TrainConfig, batch: Any, separator: int) -> Callable[[], float]:
    """One update; reading the loss waits for the device."""
    optimizers = make_optimizers(config, model)
    loss = compiled_loss() if config.compile else summed_loss
    cast = autocast(config, batch.device)
    return lambda: float(
        one_step(model, optimizers, batch, config, cast, loss, separator=separator)[0]
    )


def _timed(own: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    ratios = sorted(a / b for a, b in zip(own, base, strict=True))
    # the interval of a median by order statistics: no assumption about the noise
    low = max(0, int(scipy("stats").binom.ppf(0.025, len(ratios), 0.5)) - 1)
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
        "id": cell.id,
        "rung": cell.rung.name,
        "variant": cell.variant.name,
        "arm": cell.arm,
        "lr": cell.lr,
        "config": config.to_dict(),
    }
    write_json(out_dir / "records" / f"{cell.id}.json", {**here, **record})
    shutil.rmtree(folder, ignore_errors=True)


def check_folder(plan: Plan, out_dir: Path) -> None:
    """Raises unless out_dir is new or holds this study: its sizes may grow, not change.

    Numbers of seeds, the difference to resolve and further sizes or variants may differ.
    """
    path = out_dir / "study.json"
    if not path.exists():
        return
    try:
        known = read_json(path)
        theirs = {r["name"]: r for r in known["rungs"]}
        configs = {n: TrainConfig.from_dict(r["config"]).to_dict() for n, r in theirs.items()}
        same = {key: known[key] for key in ("name", *SETTLED)}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} must be the plan of a study, got {error!r}; remove it") from None
    ours = plan.to_dict()
    if ours["name"] != same["name"]:
        raise Error(f"{out_dir} holds the study '{same['name']}'; choose another folder")
    changed = [key for key in SETTLED if json.dumps(ours[key]) != json.dumps(same[key])]
    before = known.get("activations", {})
    changed += [f"the declaration of {name}" for name, digest in _declared(plan).items()
                if before.get(name, digest) != digest]  # fmt: skip
    for rung in ours["rungs"]:
        if rung["name"] in theirs:
            there = theirs[rung["name"]]
            kinds = {v["name"]: v for v in there["variants"]}
            for own in json.loads(json.dumps(rung["variants"])):
                changed += [f"{key} of {own['name']}" for key, value in own.items()
                            if kinds.get(own["name"], own).get(key, value) != value]  # fmt: skip
            changed += [f"{key} of {rung['name']}" for key in ("tuned", "short")
                        if rung[key] != there[key]]  # fmt: skip
            changed += [f"{key} of {rung['name']}" for key, value in rung["config"].items()
                        if value != configs[rung["name"]][key]]  # fmt: skip
    if changed:
        raise Error(
            f"{changed[0]} must stay as in the study that {out_dir} holds; choose another folder, "
            f"or run its own command: {known.get('command', '')}"
        )


def _declared(plan: Plan) -> dict[str, str]:
    """The digest of every declaration, by the name that variants call it."""
    found = {}
    for name in {v.activation for v in plan.variants}:
        given = plan.activations.get(name)
        spec = getattr(given, "spec", None) if given else name in names() and row(name).spec
        if spec:
            found[name] = spec.sha256
    return dict(sorted(found.items()))


def _same_data(tokens: TokenData, records: Sequence[Record], out_dir: Path) -> None:
    if other := [r for r in records if r["data_sha256"] != tokens.sha256]:
        raise Error(
            f"the runs in {out_dir} saw other text ({other[0]['data_sha256'][:12]}, now "
            f"{tokens.sha256[:12]}); choose another folder"
        )


def _keep_plan(plan: Plan, out_dir: Path, records: Sequence[Record], cells: list[Cell]) -> None:
    """study.json: the plan with the seeds that each size has come to, and all planned runs.

    A command for some of its sizes, or fewer seeds, leaves the rest planned.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "study.json"
    kept = plan.to_dict()
    for rung, entry in zip(plan.rungs, kept["rungs"], strict=True):
        entry["seeds"] = seeds(plan, rung, records)
    kept["activations"] = _declared(plan)
    counts = Counter(r["arm"] for r in records) + Counter(c.arm for c in cells)
    kept["planned"] = {arm: counts[arm] for arm in ("tune", "short")}
    # how many runs one process does is not what the study is
    kept["command"] = re.sub(r" --runs[ =]\d+", "", command())
    if path.exists():
        _add(kept, read_json(path))
    write_json(path, kept)


def _add(kept: dict[str, Any], before: dict[str, Any]) -> None:
    """What an earlier command planned and `kept` does not; its own line where that is all."""
    asked = kept["seeds_at_most"], _members(kept)
    for key in ("seeds_at_least", "seeds_at_most"):
        kept[key] = max(kept[key], before[key])
    for arm, count in before["planned"].items():
        kept["planned"][arm] = max(kept["planned"][arm], count)
    earlier = {rung["name"]: rung for rung in before["rungs"]}
    for rung in kept["rungs"]:
        if there := earlier.pop(rung["name"], None):
            rung["seeds"] = max(rung["seeds"], there["seeds"])
            rung["variants"] = _union(rung["variants"], there["variants"])
    # by tokens, since an untuned size takes its rates of the next smaller one
    kept["rungs"] = sorted(
        [*kept["rungs"], *earlier.values()],
        key=lambda rung: _tokens_of(TrainConfig.from_dict(rung["config"])),
    )
    kept["variants"] = _union(kept["variants"], before["variants"])
    kept["pairs"] += [pair for pair in before["pairs"] if pair not in kept["pairs"]]
    kept["activations"] = before.get("activations", {}) | kept["activations"]
    if asked != (kept["seeds_at_most"], _members(kept)):
        kept["command"] = before["command"]


def _members(plan: dict[str, Any]) -> set[tuple[str, str]]:
    return {(rung["name"], v["name"]) for rung in plan["rungs"] for v in rung["variants"]}


def _union(variants: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {v["name"] for v in variants}
    return variants + [v for v in before if v["name"] not in names]


def _sweep(out_dir: Path, records: Sequence[Record]) -> None:
    """Remove what a kill between a record and its cleaning has left."""
    for record in records:
        if "id" in record:
            shutil.rmtree(out_dir / "work" / record["id"], ignore_errors=True)


def _tell_passes(plan: Plan, tokens: TokenData) -> None:
    there = sum(map(len, tokens.train))
    for rung in plan.rungs:
        passes = _tokens_of(rung.config) / there
        if passes > 1:
            _tell(f"{rung.name}: {passes:.1f} passes over {there:,} tokens; more text is better")


def _tell_spread(plan: Plan, rung: Rung, before: Sequence[Record], after: Sequence[Record]) -> None:
    """Once, when the first seeds of a size are all there: what they say about the next ones."""
    sd = spread(plan, rung, after)
    if sd is None or spread(plan, rung, before) is not None:
        return
    effect = min_detectable_effect(sd, plan.seeds_at_least)
    _tell(
        f"{rung.name}: differences within seeds have a standard deviation of up to {sd:.4f} nats; "
        f"{plan.seeds_at_least} seeds show {effect:.4f} with a chance of 80 %; going on to "
        f"{seeds(plan, rung, after)} for {plan.resolve:g}"
    )


def _tokens_of(config: TrainConfig) -> int:
    return config.steps * config.batch_size * config.context


def _outlook(cell: Cell, cells: Sequence[Cell], records: Sequence[Record]) -> str:
    """What is run next and how long the runs that are known to be due would take one by one."""
    speed: dict[str, float] = {}
    for record in records:
        speed[record["rung"]] = record["tokens"] / record["wall_s"]
    left = 0.0
    for c in cells:
        tokens = _tokens_of(c.rung.config)
        if c.rung.name in speed:
            left += tokens * (1.0 if c.arm == "main" else 0.5) / speed[c.rung.name]
    unknown = "" if all(c.rung.name in speed for c in cells) else " and larger sizes"
    time_left = f", about {clock(left)} of one process{unknown}" if left else ""
    return f"{len(records)} runs done, {len(cells)} due{time_left}; next: {cell.id}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
