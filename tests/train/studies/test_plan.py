"""Which runs are due: the sweep first, then seed by seed, then more seeds where noise asks."""

import dataclasses
import random
from itertools import groupby
from typing import Any

import pytest

from integrand.errors import Error
from integrand.train.config import TrainConfig, Variant
from integrand.train.studies.plan import Cell, Plan, Rung, due, rate, seeds, shortened

A = Variant(name="A", activation="silu", gated=True)
B = Variant(name="B", activation="xielu")
C = Variant(name="B fixed", activation="xielu", like="B", changes={"activation_weight_decay": 0.1})


@pytest.fixture
def plan(config: TrainConfig) -> Plan:
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, d_model=32))
    return Plan(
        name="test",
        rungs=(
            Rung(name="small", config=config, variants=(A, B, C)),
            Rung(name="large", config=wide, variants=(A, B), tuned=False, short=False),
        ),
        rates=(1e-2, 2e-2),
        tuning_seeds=(100,),
        seeds_at_least=3,
        seeds_at_most=6,
        resolve=0.01,
    )


def result(cell: Cell, loss: float) -> dict[str, Any]:
    return {
        "rung": cell.rung.name, "variant": cell.variant.name, "arm": cell.arm, "lr": cell.lr,
        "seed": cell.seed, "loss": loss, "diverged": None,
    }  # fmt: skip


def finish(plan: Plan, loss: Any, records: list[Any] | None = None) -> list[Any]:
    """All runs, one after the other as a worker takes them."""
    records = records or []
    while cells := due(plan, records):
        records.append(result(cells[0], loss(cells[0])))
    return records


def test_a_study_takes_the_sweep_then_seeds_then_the_larger_size(plan: Plan) -> None:
    records = finish(plan, lambda cell: 3.0 + (cell.lr - 1.5e-2) ** 2)
    order = [(r["rung"], r["arm"]) for r in records]
    sweep = [p for p, o in enumerate(order) if o[1] == "tune"]
    assert sweep == list(range(len(sweep)))
    assert {r["variant"] for r in records if r["arm"] == "tune"} == {"A", "B"}
    assert order.index(("large", "main")) > max(p for p, o in enumerate(order) if o[0] == "small")
    small = [arm if v != "B fixed" else "ablation" for v, r, arm in
             ((r["variant"], r["rung"], r["arm"]) for r in records) if r == "small"]  # fmt: skip
    assert [arm for arm, _ in groupby(small)] == ["tune", "main", "short", "ablation"]
    # an ablation has the rate of what it ablates, and no short runs
    own = [r for r in records if r["variant"] == "B fixed"]
    assert {r["arm"] for r in own} == {"main"}
    assert {r["lr"] for r in own} == {
        r["lr"] for r in records if (r["rung"], r["variant"], r["arm"]) == ("small", "B", "main")
    }
    assert len({str(r) for r in records}) == len(records)


@pytest.mark.parametrize(("best", "lowest", "highest"), [(1e-9, 2.5e-3, 2e-2), (1.0, 1e-2, 8e-2)])
def test_a_sweep_whose_best_is_at_the_edge_widens_and_ends(
    plan: Plan, best: float, lowest: float, highest: float
) -> None:
    records = finish(plan, lambda cell: abs(cell.lr - best))
    swept = [r["lr"] for r in records if r["arm"] == "tune"]
    assert (min(swept), max(swept)) == (lowest, highest)


def test_an_untuned_size_scales_its_rates_with_the_width(plan: Plan) -> None:
    records = finish(plan, lambda cell: abs(cell.lr - 2e-2) if cell.arm == "tune" else 3.0)
    small, large = (rate(plan, rung, A, records) for rung in plan.rungs)
    assert large == pytest.approx(small * 16 / 32)


def test_without_a_sweep_the_rate_is_the_config_s(plan: Plan) -> None:
    alone = dataclasses.replace(plan, rungs=plan.rungs[1:])
    assert rate(alone, alone.rungs[0], A, []) == alone.rungs[0].config.lr
    assert {cell.arm for cell in due(alone, [])} == {"main"}


def test_no_rate_is_known_before_the_sweep_is_whole(plan: Plan) -> None:
    assert {cell.arm for cell in due(plan, [])} == {"tune"}
    records: list[Any] = []
    while sweep := [c for c in due(plan, records) if c.variant is A and c.arm == "tune"]:
        records.append(result(sweep[0], abs(sweep[0].lr - 2e-2)))
    assert {c.variant.name for c in due(plan, records) if c.arm == "main"} == {"A"}


def test_a_variant_whose_every_rate_diverges_leaves_the_others_alone(plan: Plan) -> None:
    records: list[Any] = []
    while cells := due(plan, records):
        lost = cells[0].variant is B
        row = result(cells[0], 3.0 + cells[0].lr)
        records.append({**row, "loss": None, "diverged": 7} if lost else row)
    swept = {r["lr"] for r in records if (r["variant"], r["arm"]) == ("B", "tune")}
    assert min(swept) == 1e-2 / 4  # lower rates were tried
    assert {r["variant"] for r in records if r["arm"] == "main"} == {"A"}


def test_a_diverged_rate_is_never_chosen(plan: Plan) -> None:
    records = []
    for cell in due(plan, []):
        lost = cell.lr == 1e-2
        row = result(cell, 3.0)
        records.append({**row, "loss": None, "diverged": 7} if lost else row)
    assert rate(plan, plan.rungs[0], B, records) != 1e-2


@pytest.mark.parametrize(("noise", "wanted"), [(1e-5, 3), (0.05, 6)])
def test_the_spread_of_paired_differences_decides_the_number_of_seeds(
    plan: Plan, noise: float, wanted: int
) -> None:
    draw = random.Random(0)
    level = {s: draw.gauss(0, 1) for s in range(10)}  # a seed's own level cancels in pairs

    def loss(cell: Cell) -> float:
        return 3.0 if cell.arm == "tune" else 3.0 + level[cell.seed] + draw.gauss(0, noise)

    records = finish(plan, loss)
    assert seeds(plan, plan.rungs[0], records) == wanted
    mains = [r for r in records if r["arm"] == "main" and r["rung"] == "small"]
    assert {r["seed"] for r in mains} == set(range(wanted))


def test_further_seeds_come_when_the_first_ones_are_through(plan: Plan) -> None:
    draw = random.Random(0)
    rung = dataclasses.replace(plan.rungs[0], variants=(A, B))
    records = finish(dataclasses.replace(plan, rungs=(rung,)), lambda cell: draw.gauss(3, 0.05))
    order = [(r["arm"], r["seed"] >= 3) for r in records if r["arm"] != "tune"]
    assert [o for o, _ in groupby(order)] == [
        ("main", False), ("short", False), ("main", True), ("short", True)
    ]  # fmt: skip


def test_more_comparisons_and_the_last_of_the_first_seeds_ask_for_more_seeds(plan: Plan) -> None:
    def wanted(*variants: Variant) -> int:
        rung = dataclasses.replace(plan.rungs[0], variants=variants)
        own = dataclasses.replace(plan, rungs=(rung,), seeds_at_most=50, widenings=0)

        def loss(cell: Cell) -> float:
            return 3.0 + 0.02 * (cell.arm == "main" and (cell.variant, cell.seed) == (B, 2))

        return seeds(own, rung, [result(c, loss(c)) for c in _first(own)])

    others = [dataclasses.replace(B, name=name) for name in "DEF"]
    assert 3 < wanted(A, B) < wanted(A, B, *others)


def _first(plan: Plan) -> list[Cell]:
    """The sweep and the first seeds."""
    arms = [("tune", lr, seed) for lr in plan.rates for seed in plan.tuning_seeds]
    arms += [("main", plan.rates[0], seed) for seed in range(plan.seeds_at_least)]
    (rung,) = plan.rungs
    return [Cell(rung, v, arm, lr, seed) for v in rung.variants for arm, lr, seed in arms]


def test_a_short_run_keeps_the_shape_of_the_schedule(config: TrainConfig) -> None:
    half = shortened(config, 0.5)
    for name in ("steps", "warmup_steps", "decay_steps"):
        assert getattr(half, name) == getattr(config, name) // 2


def test_a_plan_that_cannot_be_followed_is_refused(plan: Plan) -> None:
    with pytest.raises(Error, match="ascend"):
        dataclasses.replace(plan, rates=(2e-2, 1e-2))
    with pytest.raises(Error, match="resolve must be above 0"):
        dataclasses.replace(plan, resolve=float("nan"))
    with pytest.raises(Error, match="sizes with distinct names"):
        dataclasses.replace(plan, rungs=plan.rungs[:1] * 2)
    small, large = plan.rungs
    with pytest.raises(Error, match="'C' at large has no rate"):
        other = dataclasses.replace(A, name="C")
        dataclasses.replace(plan, rungs=(small, dataclasses.replace(large, variants=(A, other))))
    with pytest.raises(Error, match="names that differ in letters"):
        same = dataclasses.replace(A, name="a")
        dataclasses.replace(plan, rungs=(dataclasses.replace(small, variants=(A, same)),))
    for overlapping in ((), (0, 1)):
        with pytest.raises(Error, match="seeds of their own"):
            dataclasses.replace(plan, tuning_seeds=overlapping)
    with pytest.raises(Error, match="two or more seeds"):
        dataclasses.replace(plan, seeds_at_least=1)
    with pytest.raises(Error, match="like 'B', which is not a tuned one"):
        dataclasses.replace(plan, rungs=(dataclasses.replace(plan.rungs[0], variants=(A, C)),))
