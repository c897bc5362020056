"""A study end to end at toy size: shared by processes, resumed, summarised."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import integrand as ig
from integrand.cache import locked_file
from integrand.errors import Error
from integrand.train.config import TrainConfig, Variant
from integrand.train.describe import Description, describe
from integrand.train.studies import Plan, Rung, run_study, summarise, time_rung, work
from integrand.train.studies.plan import due
from integrand.train.studies.work import check_rung

GATED = Variant(name="SwiGLU", activation="silu", gated=True)
PLAIN = Variant(name="xIELU", activation="xielu")
FIXED = Variant(
    name="xIELU alpha_p only", activation="xielu", like="xIELU",
    changes={"activation_fixed": ("alpha_n",)},
)  # fmt: skip
CHANNELS = Variant(
    name="xIELU per channel", activation="xielu", like="xIELU",
    changes={"activation_per_channel": True, "activation_dtype": "bf16"},
)  # fmt: skip


@pytest.fixture
def plan(config: TrainConfig) -> Plan:
    config = dataclasses.replace(config, steps=6, warmup_steps=1, decay_steps=2, eval_every=3)
    return Plan(
        name="toy",
        rungs=(Rung(name="toy", config=config, variants=(GATED, PLAIN, FIXED, CHANNELS)),),
        rates=(1e-2, 2e-2),
        tuning_seeds=(100,),
        seeds_at_least=2,
        seeds_at_most=2,
        widenings=0,
    )


def test_a_study_in_pieces_is_the_study_in_one(plan: Plan, tmp_path: Path, cache: Path) -> None:
    whole = run_study(plan, tmp_path / "whole", cache_dir=cache, quiet=True)
    assert len(whole) == 2 * 2 + 2 * 4 + 2 * 2
    for _ in range(3):
        pieces = run_study(plan, tmp_path / "pieces", cache_dir=cache, at_most=7, quiet=True)
    losses = [{(r["variant"], r["arm"], r["lr"], r["seed"]): r["loss"] for r in rs}
              for rs in (whole, pieces)]  # fmt: skip
    assert losses[0] == losses[1]
    assert not list((tmp_path / "whole" / "work").iterdir())
    # an ablation changes what it says and nothing else
    by = {(r["variant"], r["arm"], r["seed"]): r for r in whole if r["arm"] == "main"}
    fixed = by["xIELU alpha_p only", "main", 0]
    assert list(fixed["activation_values"]) == ["alpha_p"]
    assert fixed["parameters"] == by["xIELU", "main", 0]["parameters"] - 2
    assert len(by["xIELU per channel", "main", 0]["activation_values"]["alpha_n"][0]) == 36
    assert all(r["config"][key] == r[key] for r in whole for key in ("lr", "seed"))
    orders = [by["SwiGLU", "main", seed]["batches_sha256"] for seed in (0, 1)]
    assert orders[0] != orders[1]
    summary = summarise(tmp_path / "whole")
    assert {c["a"] for c in summary["comparisons"] if c["b"] != "xIELU"} == {"xIELU"}
    assert all(r["batches_sha256"] == by["SwiGLU", "main", 0]["batches_sha256"]
               for r in whole if r["arm"] == "main" and r["seed"] == 0)  # fmt: skip


def test_two_processes_share_a_study_and_one_survives_the_other(
    config: TrainConfig, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "integrand", "study", "smoke", "--data", config.data.source),
        *("--out", str(tmp_path / "s"), "--threads", "1", "--runs", "2"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "s").glob("work/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "s" / "records").iterdir())) == 2
    assert not list((tmp_path / "s" / "work").iterdir())
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["command"].startswith("integrand study smoke")
    assert summary["progress"]["tune"]["finished"] == 2
    assert "<svg" in (tmp_path / "s" / "report.html").read_text()


def test_a_run_that_another_process_holds_is_passed_over(
    plan: Plan, tmp_path: Path, cache: Path
) -> None:
    """Whose claim was lost while it stood still."""
    held = tmp_path / "work" / due(plan, [])[0].id
    held.mkdir(parents=True)
    with locked_file(held / ".lock", 0.0):
        (record,) = run_study(plan, tmp_path, cache_dir=cache, at_most=1, quiet=True)
    assert record["id"] == due(plan, [])[1].id


def test_steps_are_timed_by_turns(plan: Plan, tmp_path: Path, cache: Path, monkeypatch) -> None:
    monkeypatch.setenv("INTEGRAND_CACHE", str(cache))
    found = time_rung(plan, plan.rungs[0], tmp_path, rounds=12, quiet=True)["variants"]
    assert list(found) == ["SwiGLU", "xIELU"]
    assert found["SwiGLU"]["ratio"] == 1.0
    low, high = found["xIELU"]["ratio_ci"]
    assert 0 < low <= found["xIELU"]["ratio"] <= high


def test_unequal_sides_are_refused(plan: Plan) -> None:
    odd = dataclasses.replace(plan.rungs[0].config.model, d_hidden=3)
    rung = dataclasses.replace(
        plan.rungs[0], config=dataclasses.replace(plan.rungs[0].config, model=odd)
    )
    with pytest.raises(Error, match=r"equal weights within 0.1 %"):
        check_rung(plan, rung)


def test_unequal_flops_are_refused(plan: Plan, monkeypatch) -> None:
    def counted(config: TrainConfig, activation: Any) -> Description:
        found = describe(config, activation)
        dearer = 1.002 if config.activation == "xielu" else 1.0
        return found._replace(flops_per_token=found.flops_per_token * dearer)

    monkeypatch.setattr(work, "describe", counted)
    with pytest.raises(Error, match="equal flops_per_token"):
        check_rung(plan, plan.rungs[0])


def test_a_folder_keeps_its_study_and_takes_more_of_it(
    plan: Plan, tmp_path: Path, cache: Path, corpus: Path, monkeypatch
) -> None:
    run_study(plan, tmp_path, cache_dir=cache, at_most=1, quiet=True)
    kept = (tmp_path / "study.json").read_text()
    (rung,) = plan.rungs

    def changed(**fields) -> Plan:
        config = dataclasses.replace(rung.config, **fields)
        return dataclasses.replace(plan, rungs=(dataclasses.replace(rung, config=config),))

    def with_variant(**fields) -> Plan:
        variants = *rung.variants[:-1], dataclasses.replace(rung.variants[-1], **fields)
        return dataclasses.replace(plan, rungs=(dataclasses.replace(rung, variants=variants),))

    other = dataclasses.replace(rung.config.data, source="elsewhere")
    for refused, said in (
        (changed(steps=12, decay_steps=3), "^steps of toy must stay"),
        (changed(data=other), "data of toy must stay"),
        (dataclasses.replace(plan, share=0.25), "share must stay"),
        (
            with_variant(changes={"activation_weight_decay": 9.0}),
            "changes of xIELU per channel must stay",
        ),
        (with_variant(activation="gelu"), "activation of xIELU per channel must stay"),
        (
            dataclasses.replace(plan, activations={"xielu": ig.activation("gelu")}),
            "the declaration of xielu must stay",
        ),
        (
            dataclasses.replace(plan, rungs=(dataclasses.replace(rung, short=False),)),
            "short of toy must stay",
        ),
    ):
        with pytest.raises(Error, match=said):
            run_study(refused, tmp_path, cache_dir=cache, quiet=True)
    assert (tmp_path / "study.json").read_text() == kept
    more = dataclasses.replace(plan, seeds_at_least=3, seeds_at_most=4, resolve=0.5)
    assert len(run_study(more, tmp_path, cache_dir=cache, at_most=1, quiet=True)) == 2
    # what a narrower command leaves out is still planned
    planned = json.loads((tmp_path / "study.json").read_text())
    fewer = dataclasses.replace(plan, rungs=(dataclasses.replace(rung, variants=(GATED, PLAIN)),))
    with monkeypatch.context() as patch:
        patch.setattr(work, "command", lambda: "a narrower one")
        run_study(fewer, tmp_path, cache_dir=cache, at_most=0, quiet=True)
    left = json.loads((tmp_path / "study.json").read_text())
    assert {v["name"] for v in left["rungs"][0]["variants"]} == {v.name for v in rung.variants}
    assert left["seeds_at_most"] == 4 and left["rungs"][0]["seeds"] == planned["rungs"][0]["seeds"]
    assert left["planned"] == planned["planned"] and left["command"] == planned["command"]
    text = corpus.read_text()
    try:
        corpus.write_text(text + "<|endoftext|>another document")
        with pytest.raises(Error, match="saw other text"):
            run_study(plan, tmp_path, cache_dir=cache, quiet=True)
    finally:
        corpus.write_text(text)


def test_a_folder_holds_one_study(plan: Plan, tmp_path: Path, cache: Path) -> None:
    run_study(plan, tmp_path, cache_dir=cache, at_most=1, quiet=True)
    with pytest.raises(Error, match="holds the study 'toy'"):
        run_study(dataclasses.replace(plan, name="other"), tmp_path, cache_dir=cache, quiet=True)
