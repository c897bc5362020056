"""What a study runs: sizes, variants, seeds; and which runs are due, given the finished ones."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from integrand.errors import Error
from integrand.nn.gated import MakesModule
from integrand.train.config import TrainConfig, Variant
from integrand.train.matched import variant_config
from integrand.train.studies.rates import mean_losses
from integrand.train.studies.statistics import ALPHA, paired, seeds_needed

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One size of the ladder. `config` is that of a gated block; a plain one gets 1.5x its width.

    `tuned`: learning rates are swept here; else each variant takes its rate of the nearest smaller
    tuned rung times the ratio of widths d_model (rates of hidden matrices under Adam go with
    1 / width, arXiv:2203.03466), and without such a rung the rate of `config`.
    """

    name: str
    config: TrainConfig
    variants: tuple[Variant, ...]
    tuned: bool = True
    short: bool = True  # the runs on half the tokens, for equal wall-clock and tokens to equal loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A study. The first variant of a rung is what the others are compared with."""

    name: str
    rungs: tuple[Rung, ...]
    rates: tuple[float, ...]  # the sweep starts with these, ascending; a best at the edge widens it
    tuning_seeds: tuple[int, ...] = (1000, 1001)
    share: float = 0.5  # of the tokens: the tune and the short arm
    seeds_at_least: int = 5
    seeds_at_most: int = 10
    resolve: float = 0.01  # nats per token that the number of seeds is chosen for
    widenings: int = 2  # of the sweep, towards either side
    pairs: tuple[tuple[str, str], ...] = ()  # compared besides each with its reference
    activations: Mapping[str, MakesModule] = field(default_factory=dict)  # not in the catalogue

    def __post_init__(self) -> None:
        if list(self.rates) != sorted(set(self.rates)) or len(self.rates) < 2:
            raise Error(f"rates must be two or more and ascend, got {self.rates}")
        if not 2 <= self.seeds_at_least <= self.seeds_at_most:
            raise Error(
                "a study needs two or more seeds, the fewest before the most, got "
                f"{self.seeds_at_least} to {self.seeds_at_most}"
            )
        if not self.tuning_seeds or min(self.tuning_seeds) < self.seeds_at_most:
            raise Error(
                "rates are tuned on seeds of their own: one or more, none below "
                f"{self.seeds_at_most}, got {self.tuning_seeds}"
            )
        if not (0 < self.resolve < float("inf") and 0 < self.share < 1):
            raise Error(
                "resolve must be above 0 and share between 0 and 1, got "
                f"{self.resolve} and {self.share}"
            )
        if not self.rungs or len({rung.name for rung in self.rungs}) < len(self.rungs):
            raise Error("a study needs sizes with distinct names, got " + self._names())
        if len({rung.config.data for rung in self.rungs}) > 1:
            raise Error(f"all sizes must read the same data, got several for {self._names()}")
        for rung in self.rungs:
            own = {v.name for v in rung.variants if not v.like}
            if lost := [v.like for v in rung.variants if v.like and v.like not in own]:
                raise Error(
                    f"a variant of {rung.name} is like '{lost[0]}', which is not a tuned one of it"
                )
            if len({v.folder for v in rung.variants}) < len(rung.variants) or not rung.variants:
                raise Error(f"variants of {rung.name} must have names that differ in letters")
            tuned = self.tuned_below(rung)
            rated = {v.name for v in (tuned or rung).variants}
            if new := {v.name for v in rung.variants} - rated:
                raise Error(f"'{min(new)}' at {rung.name} has no rate: it is not at the tuned size")

    def _names(self) -> str:
        return ", ".join(rung.name for rung in self.rungs) or "none"

    def tuned_below(self, rung: Rung) -> Rung | None:
        """Where the rates of an untuned rung come from: the nearest smaller tuned one."""
        if rung.tuned:
            return None
        smaller = self.rungs[: [r.name for r in self.rungs].index(rung.name)]
        return next((r for r in reversed(smaller) if r.tuned), None)

    def references(self, rung: Rung) -> list[tuple[str, str]]:
        """(a, b) of every comparison at a rung."""
        names = {v.name for v in rung.variants}
        own = [(v.like or rung.variants[0].name, v.name) for v in rung.variants[1:]]
        return own + [(a, b) for a, b in self.pairs if a in names and b in names]

    def _all_pairs(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(p for rung in self.rungs for p in self.references(rung)))

    @property
    def variants(self) -> list[Variant]:
        """Those of all rungs, each name once, in order."""
        return list({v.name: v for rung in self.rungs for v in rung.variants}.values())

    def to_dict(self) -> dict[str, Any]:
        """The plan as study.json keeps it."""
        return {
            "name": self.name,
            "rungs": [
                {
                    "name": rung.name,
                    "config": rung.config.to_dict(),
                    "baseline": rung.variants[0].name,
                    "variants": [
                        {**dataclasses.asdict(v), "changes": dict(v.changes)} for v in rung.variants
                    ],
                    "tuned": rung.tuned,
                    "short": rung.short,
                }
                for rung in self.rungs
            ],
            "variants": [{"name": v.name, "like": v.like} for v in self.variants],
            "baseline": self.rungs[0].variants[0].name,
            "pairs": [list(pair) for pair in self._all_pairs()],
            "seeds": list(range(self.seeds_at_least)),
            **{
                key: getattr(self, key)
                for key in (
                    *("rates", "tuning_seeds", "share", "seeds_at_least", "seeds_at_most"),
                    *("resolve", "widenings"),
                )
            },
        }


class Cell(NamedTuple):
    """One run of a study."""

    rung: Rung
    variant: Variant
    arm: str
    lr: float
    seed: int

    @property
    def id(self) -> str:
        return f"{self.rung.name}-{self.variant.folder}-{self.arm}-lr{self.lr:g}-seed{self.seed}"

    def config(self, share: float) -> TrainConfig:
        """Its full config: a tune or short run has `share` of the steps of a main one."""
        config = dataclasses.replace(self.rung.config, lr=self.lr, seed=self.seed)
        if self.arm != "main":
            config = shortened(config, share)
        return variant_config(config, self.variant)


def shortened(config: TrainConfig, share: float) -> TrainConfig:
    """The same schedule on `share` of the steps: warm-up and decay shrink with the rest."""
    steps, warmup, decay, every = (
        max(1, round(n * share))
        for n in (config.steps, config.warmup_steps, config.decay_steps, config.eval_every)
    )
    return dataclasses.replace(
        config, steps=steps, warmup_steps=warmup, decay_steps=decay, eval_every=every
    )


def due(plan: Plan, records: Sequence[Record]) -> list[Cell]:
    """The runs that can start now and are not among `records`, in the order to take them.

    Rung by rung: first the sweep; then, seed by seed, every variant whose rate is known; then the
    short runs; then the ablations; then the same for as many more seeds as the measured spread of
    paired differences asks for.
    """
    known = {(r["rung"], r["variant"], r["arm"], f"{r['lr']:g}", r["seed"]) for r in records}
    return [
        cell
        for rung in plan.rungs
        for cell in _of_rung(plan, rung, records)
        if (rung.name, cell.variant.name, cell.arm, f"{cell.lr:g}", cell.seed) not in known
    ]


def rate(plan: Plan, rung: Rung, variant: Variant, records: Sequence[Record]) -> float | None:
    """The learning rate of a variant at a rung; None while its sweep lasts, or where all of it
    diverged."""
    if not rung.tuned:
        tuned = plan.tuned_below(rung)
        if tuned is None:
            return rung.config.lr
        there = rate(plan, tuned, variant, records)
        scale = tuned.config.model.d_model / rung.config.model.d_model
        return None if there is None else float(f"{there * scale:.3g}")
    owner = next(v for v in rung.variants if v.name == (variant.like or variant.name))
    if _missing_rates(plan, rung, owner, records):
        return None
    return _best(records, rung, owner)


def spread(plan: Plan, rung: Rung, records: Sequence[Record]) -> float | None:
    """The largest standard deviation of a paired difference over the first `seeds_at_least` seeds.

    None until all of them are there. The pairs that decide are those of the first seeds, so that
    the number of seeds does not chase its own noise.
    """
    first = range(plan.seeds_at_least)
    losses: dict[str, dict[int, float | None]] = {}
    for r in records:
        if r["rung"] == rung.name and r["arm"] == "main" and r["seed"] in first:
            losses.setdefault(r["variant"], {})[r["seed"]] = r["loss"]
    rated = {v.name for v in rung.variants if rate(plan, rung, v, records) is not None}
    if not rated or any(len(losses.get(name, {})) < len(first) for name in rated):
        return None
    found = [0.0]
    for a, b in plan.references(rung):
        if a in rated and b in rated:
            both = [(losses[a][s], losses[b][s]) for s in first]
            pairs = [(x, y) for x, y in both if x is not None and y is not None]
            if len(pairs) >= 2:
                a_losses, b_losses = zip(*pairs, strict=True)
                found.append(paired(a_losses, b_losses).sd or 0.0)
    return max(found)


def seeds(plan: Plan, rung: Rung, records: Sequence[Record]) -> int:
    """How many seeds a rung gets: enough to resolve `resolve` for its noisiest comparison.

    After Holm's correction for the pairs with the same reference; `seeds_at_least` until as many
    are there, never more than `seeds_at_most`.
    """
    sd = spread(plan, rung, records)
    if sd is None:
        return plan.seeds_at_least
    family = max(Counter(a for a, _ in plan.references(rung)).values(), default=1)
    return seeds_needed(
        *(sd, plan.resolve, plan.seeds_at_least, plan.seeds_at_most), alpha=ALPHA / family
    )


def _of_rung(plan: Plan, rung: Rung, records: Sequence[Record]) -> Iterator[Cell]:
    if rung.tuned:
        for variant in rung.variants:
            if not variant.like:
                for lr in _missing_rates(plan, rung, variant, records):
                    for seed in plan.tuning_seeds:
                        yield Cell(rung, variant, "tune", lr, seed)
    rates = {v.name: rate(plan, rung, v, records) for v in rung.variants}
    count = seeds(plan, rung, records)
    first = range(plan.seeds_at_least)
    for among, ablations in itertools.product((first, range(len(first), count)), (False, True)):
        # an ablation is about the loss at equal tokens
        arms = ("main", "short") if rung.short and not ablations else ("main",)
        for arm, seed, variant in itertools.product(arms, among, rung.variants):
            lr = rates[variant.name]
            if lr is not None and bool(variant.like) == ablations:
                yield Cell(rung, variant, arm, lr, seed)


def _missing_rates(
    plan: Plan, rung: Rung, variant: Variant, records: Sequence[Record]
) -> list[float]:
    """Rates of a variant's sweep that lack a run; the sweep widens while its best is at an edge."""
    swept: dict[float, set[int]] = {}
    for r in records:
        if (r["rung"], r["variant"], r["arm"]) == (rung.name, variant.name, "tune"):
            swept.setdefault(r["lr"], set()).add(r["seed"])
    wanted = sorted({*plan.rates, *swept})
    if missing := [lr for lr in wanted if not set(plan.tuning_seeds) <= swept.get(lr, set())]:
        return missing
    # where every rate diverged, a lower one may not
    best = _best(records, rung, variant) or wanted[0]
    step = plan.rates[1] / plan.rates[0]
    reach = step ** (plan.widenings - 0.5)  # half a step short: rates are rounded
    if best == wanted[0] > plan.rates[0] / reach:
        return [float(f"{best / step:.3g}")]
    if best == wanted[-1] < plan.rates[-1] * reach:
        return [float(f"{best * step:.3g}")]
    return []


def _best(records: Sequence[Record], rung: Rung, variant: Variant) -> float | None:
    means = mean_losses(records, rung.name, variant.name)
    best = min(means, key=lambda lr: means[lr])
    return best if math.isfinite(means[best]) else None
