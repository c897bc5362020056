"""The records of a study as its folder holds them, and whether they may be compared at all."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from integrand.errors import DataError
from integrand.train.files import read_json
from integrand.train.studies.budgets import NotMeasured
from integrand.train.studies.rates import loss

Record = Mapping[str, Any]
ARMS = ("tune", "main", "short")
# of parameters and of FLOPs per token, relative to the baseline
LARGEST_DIFFERENCE = 1e-3
NEEDED = {"rung", "variant", "arm", "lr", "seed", "loss", "diverged", "config", "batches_sha256"}


@dataclass(frozen=True)
class Study:
    """A plan, the runs finished so far, and step times measured apart from them.

    The plan has `rungs` and `variants` (lists of objects with a `name`, in order), `seeds`, and
    optionally `baseline` (else the first variant), `pairs` of variants to compare (else every
    variant against the baseline), `resolve`, `planned` (runs by arm), `command`.
    """

    plan: Mapping[str, Any]
    records: Sequence[Record]
    timing: Mapping[str, Any]

    @cached_property
    def rungs(self) -> list[str]:
        return [rung["name"] for rung in self.plan["rungs"]]

    @cached_property
    def variants(self) -> list[str]:
        return [variant["name"] for variant in self.plan["variants"]]

    @property
    def baseline(self) -> str:
        return self.plan.get("baseline") or self.variants[0]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        others = [[self.baseline, v] for v in self.variants if v != self.baseline]
        return [(a, b) for a, b in self.plan.get("pairs") or others]

    def variants_at(self, rung: str) -> list[str]:
        """A rung may have variants of its own, else it has all."""
        own = next(r.get("variants", ()) for r in self.plan["rungs"] if r["name"] == rung)
        return [v["name"] for v in own] or self.variants

    def pairs_at(self, rung: str) -> list[tuple[str, str]]:
        here = self.variants_at(rung)
        return [(a, b) for a, b in self.pairs if a in here and b in here]

    def runs(self, rung: str, variant: str, arm: str = "main") -> dict[int, Record]:
        """Runs that reached a loss, by seed."""
        found = self.all_runs(rung, variant, arm)
        return {r["seed"]: r for r in found if loss(r) < float("inf")}

    def all_runs(self, rung: str, variant: str, arm: str = "main") -> list[Record]:
        """Diverged ones too, by seed."""
        wanted = (rung, variant, arm)
        found = [r for r in self.records if (r["rung"], r["variant"], r["arm"]) == wanted]
        return sorted(found, key=lambda r: r["seed"])

    def diverged(self, rung: str, variant: str) -> list[int]:
        """Seeds of the main runs that reached no loss."""
        every = self.all_runs(rung, variant)
        return [r["seed"] for r in every if not loss(r) < float("inf")]

    def time_ratio(self, rung: str, a: str, b: str) -> tuple[float, float, float]:
        """Step time of b over a's, and the ends of its interval."""
        times = self.timing.get(rung, {}).get("variants", {})
        for name in (a, b):
            if name not in times and name != self.baseline:
                raise NotMeasured(f"the step time of {name} at {rung} was not measured")
        own: dict[str, Any] = {"ratio": 1.0, "ratio_ci": (1.0, 1.0)}
        below, above = (own if v == self.baseline else times[v] for v in (a, b))
        (low_a, high_a), (low_b, high_b) = below["ratio_ci"], above["ratio_ci"]
        return above["ratio"] / below["ratio"], low_b / high_a, high_b / low_a

    def missing(self) -> list[dict[str, Any]]:
        """Runs of the main arm that the plan has and the folder has not."""
        done = {(r["rung"], r["variant"], r["seed"]) for r in self.records if r["arm"] == "main"}
        names = ("rung", "variant", "seed")
        wanted = (
            (rung["name"], v, s)
            for rung in self.plan["rungs"]
            for v in self.variants_at(rung["name"])
            for s in range(rung.get("seeds", 0)) or self.plan["seeds"]
        )
        return [dict(zip(names, w, strict=True)) for w in wanted if w not in done]

    def progress(self) -> dict[str, dict[str, Any]]:
        """Finished and planned runs by arm; planned is None where the plan does not say."""
        done = Counter(r["arm"] for r in self.records)
        planned = {"main": done["main"] + len(self.missing())} | dict(
            self.plan.get("planned") or {}
        )
        return {arm: {"finished": done[arm], "planned": planned.get(arm)} for arm in ARMS}


def load(folder: Path | str) -> Study:
    """The study in a folder.

    Raises:
        DataError: a file is missing or damaged, or the runs cannot be compared: other data, other
            batches, or two runs where there must be one.
    """
    folder = Path(folder)
    if not (folder / "study.json").exists():
        raise DataError(f"{folder} must hold study.json, the plan of a study; run it first")
    records = [read_json(path) for path in sorted((folder / "records").glob("*.json"))]
    timing = {path.stem: read_json(path) for path in sorted((folder / "timing").glob("*.json"))}
    study = Study(read_json(folder / "study.json"), records, timing)
    for record in records:
        if lost := NEEDED - record.keys():
            raise DataError(
                f"a record must have {', '.join(sorted(NEEDED))}, got one without "
                f"{', '.join(sorted(lost))} in {folder / 'records'}; remove it and run the study on"
            )
    if not records:
        raise DataError(f"{folder / 'records'} must hold the records of finished runs, got none")
    _one_value(records, "data_sha256", lambda r: "all runs")
    whole = [r for r in records if r["diverged"] is None]
    _one_value(whole, "batches_sha256", lambda r: f"{r['rung']}, {r['arm']}, seed {r['seed']}")
    _one_value(
        [r for r in records if r["arm"] != "tune"],
        "lr",
        lambda r: f"{r['rung']}, {r['variant']}, {r['arm']}",
    )
    runs = Counter((r["rung"], r["variant"], r["arm"], r["lr"], r["seed"]) for r in records)
    for run, count in runs.items():
        if count > 1:
            raise DataError(f"a run must have one record, got {count} of {run}; remove one")
    return study


def _one_value(records: Sequence[Record], key: str, group: Any) -> None:
    known: dict[str, Record] = {}
    for record in records:
        first = known.setdefault(group(record), record)
        if record[key] != first[key]:
            raise DataError(
                f"{key} must be equal within {group(record)}, got {str(first[key])[:12]} for "
                f"{first['variant']} and {str(record[key])[:12]} for {record['variant']} (seed "
                f"{record['seed']}); move the records that do not belong out of the folder"
            )


def checks(study: Study) -> list[dict[str, Any]]:
    """Whether the sides of every rung are matched: weights, FLOPs and tokens per run.

    Weights are parameters without the activation's own, which a comparison may be about.
    """
    return [
        {"what": f"{what} at {rung}", "largest_difference": worst, "ok": worst <= allowed}
        for rung in study.rungs
        for what, of, allowed in (
            ("weights", _weights, LARGEST_DIFFERENCE),
            ("FLOPs per token", lambda r: r["flops_per_token"], LARGEST_DIFFERENCE),
            ("tokens", lambda r: r["tokens"], 0.0),
        )
        for worst in _worst(study, rung, of)
    ]


def _weights(record: Record) -> int:
    values = (record["activation_values"] or {}).values()
    return record["parameters"] - sum(
        len(layer) if isinstance(layer, list) else 1 for layers in values for layer in layers
    )


def _worst(study: Study, rung: str, of: Callable[[Record], float]) -> Iterator[float]:
    # a diverged run has no values whose parameters could be told apart
    every = [r for v in study.variants_at(rung) for r in study.runs(rung, v).values()]
    if every:
        yield max(abs(of(r) / of(every[0]) - 1) for r in every)
