"""A confirmation is a study: what it plans, and what it says of winners that are planted."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integrand.errors import Error
from integrand.search.confirm import SIZES, confirmation, confirmed, label
from integrand.search.tiny import SEED
from integrand.spec import row
from integrand.train import DataConfig
from integrand.train.files import read_json
from integrand.train.studies import Plan, due, run_study
from integrand.train.studies.plan import Cell

# the mathematics of references, so that nothing has to be derived besides them
GOOD, LIKE = (
    replace(row(like).spec, name=name) for name, like in (("good", "xielu"), ("like", "relu2"))
)
EFFECTS = {label(GOOD): -0.1, label(LIKE): 0.0}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return confirmation([GOOD, LIKE], "text.jsonl")


def test_sides_are_matched_and_winners_train(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["one", "two", "three"], k=90)) for _ in range(60)]
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    small = {
        "batch_size": 2, "context": 16, "eval_sequences": 4, "steps": 4, "warmup_steps": 1,
        "decay_steps": 1, "eval_every": 4, "checkpoint_every": 4,
        "data": DataConfig(source=str(text), vocab_size=300, held_out=0.2),
    }  # fmt: skip
    plan = confirmation([GOOD], str(text), changes=small)
    # the winner first
    rungs = [replace(r, variants=(r.variants[-1], *r.variants[:-1])) for r in plan.rungs]
    # raises unless weights agree within 0.1 % and shared tensors start equal
    run_study(replace(plan, rungs=tuple(rungs)), tmp_path / "study", at_most=1, quiet=True)
    (record,) = (tmp_path / "study" / "records").iterdir()
    found = read_json(record)
    assert found["variant"] == label(GOOD) and len(found["activation_values"]["alpha_p"]) == 3


def test_every_winner_meets_every_reference(plan: Plan) -> None:
    for rung in plan.rungs:
        pairs = plan.references(rung)
        for winner in EFFECTS:
            assert {a for a, b in pairs if b == winner} == {"SwiGLU", "ReLU2", "xIELU"}


def test_seeds_are_not_those_of_the_search(plan: Plan) -> None:
    assert SEED not in {*range(plan.seeds_at_most), *plan.tuning_seeds}
    assert plan.seeds_at_least >= 5 and len(plan.rungs) >= 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sizes": ("0.1M", "0.2M")}, "the search is at 0.1M"),
        ({"sizes": ("0.2M", "0.07M")}, "two or more sizes of 0.05M, 0.2M"),
        ({"sizes": ("0.5M", "0.2M")}, "ascending"),
        ({"sizes": ("0.2M",)}, "two or more sizes"),
        ({"seeds": (3, 5)}, "5 paired seeds"),
    ],
)
def test_what_would_confirm_nothing_is_refused(wrong: Mapping[str, Any], said: str) -> None:
    with pytest.raises(Error, match=said):
        confirmation([GOOD], "text.jsonl", **wrong)


def test_equal_winners_are_refused() -> None:
    with pytest.raises(Error, match="differ"):
        confirmation([GOOD, GOOD], "text.jsonl")


def _record(cell: Cell, draw: random.Random) -> dict[str, Any]:
    loss = 4 + 0.1 * (cell.seed % 5) + EFFECTS.get(cell.variant.name, 0) + draw.gauss(0, 0.003)
    return {
        "rung": cell.rung.name, "variant": cell.variant.name, "arm": cell.arm, "lr": cell.lr,
        "seed": cell.seed, "loss": loss + abs(cell.lr - 0.01), "diverged": None,
        "parameters": 1000, "flops_per_token": 6000.0, "tokens": 20000, "bits_per_byte": loss / 2,
        "memory_bytes": None, "activation_values": {}, "outliers": None, "held_out": [],
        "config": {}, "batches_sha256": f"{cell.rung.name}{cell.arm}{cell.seed}",
        "data_sha256": "d" * 64,
    }  # fmt: skip


def _folder(plan: Plan, folder: Path, most: int | None = None) -> Path:
    """The study carried out by an oracle, up to a number of runs."""
    draw, records = random.Random(0), []
    while (cells := due(plan, records)) and len(records) != most:
        records += [_record(cell, draw) for cell in cells[: most and most - len(records)]]
    (folder / "records").mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(plan.to_dict()))
    for i, record in enumerate(records):
        (folder / "records" / f"{i}.json").write_text(json.dumps(record))
    return folder


def test_a_planted_effect_is_better_and_none_cannot_be_told(plan: Plan, tmp_path: Path) -> None:
    good, like = confirmed([GOOD, LIKE], _folder(plan, tmp_path / "study"))
    assert good["verdict"] == "better" and good["seeds"] >= 5 and good["gradient"] == GOOD.gradient
    assert {(a["reference"], a["size"]) for a in good["against"]} == {
        (r, s) for r in ("SwiGLU", "ReLU2", "xIELU") for s in SIZES
    }
    # five times the standard error
    assert all(abs(a["difference"] + 0.1) < 0.01 for a in good["against"])
    assert like["verdict"] == "cannot tell" and like["gradient"] == LIKE.gradient


def test_one_size_cannot_tell(plan: Plan, tmp_path: Path) -> None:
    one = replace(plan, rungs=plan.rungs[:1])
    (good,) = confirmed([GOOD], _folder(one, tmp_path / "study"))
    assert {a["verdict"] for a in good["against"]} == {"better"} and good["seeds"] >= 5
    assert good["verdict"] == "cannot tell"


def test_too_few_seeds_cannot_tell(plan: Plan, tmp_path: Path) -> None:
    # the sweep of the first size, and three seeds of it
    some = _folder(plan, tmp_path / "study", most=5 * 3 * 2 + 5 * 3)
    (row,) = confirmed([GOOD], some)
    assert row["verdict"] == "cannot tell" and row["seeds"] in (0, 3)
    assert {a["verdict"] for a in row["against"]} == {"cannot tell"}
