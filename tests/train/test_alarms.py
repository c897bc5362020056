import dataclasses
import json
import logging
import math
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from integrand import cli
from integrand.activation import derive
from integrand.models.decoder import Decoder
from integrand.spec import Param, Spec
from integrand.train import Variant, loop, matched, train
from integrand.train.alarms import Alarms, Spikes
from integrand.train.config import TrainConfig
from integrand.train.files import MetricsLog, read_metrics
from integrand.train.tokens import TokenData


def noise(count: int) -> Iterator[float]:
    """A loss that falls from 5 to 3 and jitters by 0.05."""
    draw = random.Random(0)
    return (3 + 2 * 0.99**step + draw.gauss(0, 0.05) for step in range(count))


def test_noise_is_no_spike() -> None:
    spikes = Spikes()
    assert [spikes.add(loss) for loss in noise(2000)] == [None] * 2000


def test_a_spike_is_told_once_with_its_limit() -> None:
    spikes = Spikes()
    for loss in noise(600):
        spikes.add(loss)
    limit = spikes.add(3.6)
    # six deviations of 0.05 over a median of 3, each known within two standard errors
    assert limit == pytest.approx(3.3, abs=6 * 0.05 * 0.3 + 0.02)
    assert spikes.add(3.7) is None
    assert spikes.add(3.0) is None
    assert spikes.add(3.6) is not None


def alarms_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "alarm"]


def test_a_spike_is_a_row_and_a_warning_and_a_resumed_run_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    model = torch.nn.Linear(1, 1)
    alarms = Alarms(model, "here")
    with MetricsLog(path, -1) as metrics:
        for step, loss in enumerate(noise(100)):
            metrics.add("train", step, loss=loss)
            alarms.spike(metrics, step, loss)
        assert alarms_of(tmp_path) == []
    resumed = Alarms(model, "here")
    with MetricsLog(path, 98) as metrics:
        resumed.recall(metrics.kept)
        resumed.spike(metrics, 99, 9.0)
    (row,) = alarms_of(tmp_path)
    assert (row["reason"], row["step"], row["loss"]) == ("spike", 99, 9.0)
    (told,) = caplog.records
    assert told.message.startswith("here: loss 9 at step 99 is a spike")


def test_of_many_ranks_one_speaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    act = derive(Spec(name="scaled", gradient="a*x", params={"a": Param(9.5)}, source="test"))
    for speaks in (False, True):
        model = act.module()
        alarms = Alarms(model, "here", speaks)
        for parameter in model.parameters():
            parameter.data.fill_(1e3)
        with MetricsLog(tmp_path / "metrics.jsonl", -1) as metrics:
            for step, loss in enumerate(noise(100)):
                alarms.spike(metrics, step, loss)
            alarms.spike(metrics, 100, 9.0)
            alarms.growth(metrics, 100)
            assert alarms.diverged(metrics, 101, float("nan"), 1.0)
        assert [row["reason"] for row in alarms_of(tmp_path)] == ["spike", "growth", "diverged"]
        assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 3 * speaks


@pytest.fixture
def growing(config: TrainConfig) -> tuple[TrainConfig, Any]:
    """A run whose activation parameter passes its limit of 10 at step 5 or 6, by its rate."""
    act = derive(Spec(name="scaled", gradient="a*x", params={"a": Param(9.5)}, source="test"))
    config = dataclasses.replace(
        config, activation="scaled", activation_lr_scale=100.0, lr=2e-3, eval_every=2,
        checkpoint_every=2,
    )  # fmt: skip
    return config, act


def test_growth_is_told_once_also_across_a_stop(
    growing: tuple[TrainConfig, Any],
    tokens: TokenData,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, act = growing

    def stop(step: int, loss: float) -> None:
        if step == 15:
            raise InterruptedError

    def limit_everything(model: Decoder, **_: Any) -> Any:
        return original(model, limits={"a": 9.5000001})

    original = loop.Alarms.__init__.__globals__["GrowthMonitor"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("integrand.train.alarms.GrowthMonitor", limit_everything)
        with pytest.raises(InterruptedError), caplog.at_level(logging.WARNING):
            train(config, tmp_path, activation=act, tokens=tokens, quiet=True, on_step=stop)
        before = alarms_of(tmp_path)
        assert before
        train(config, tmp_path, activation=act, tokens=tokens, quiet=True)
    found = alarms_of(tmp_path)
    names = [row["parameter"] for row in found]
    assert len(names) == len(set(names))
    assert found[: len(before)] == before
    assert all(row["value"] > row["limit"] for row in found)
    assert len([r for r in caplog.records if "past its limit" in r.message]) == len(found)


@pytest.fixture
def blown(config: TrainConfig) -> TrainConfig:
    """Steps so large that fp32 overflows within a few."""
    return dataclasses.replace(config, lr=1e18, warmup_steps=0, decay_steps=0, clip_norm=1e30)


def test_a_run_that_diverges_is_a_result(
    blown: TrainConfig, tokens: TokenData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = train(blown, tmp_path, tokens=tokens, quiet=True)
    step = record["diverged"]
    assert 1 <= step < blown.steps
    assert record["loss"] is record["bits_per_byte"] is record["activation_values"] is None
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "checkpoints").exists()
    assert [(row["reason"], row["step"]) for row in alarms_of(tmp_path)] == [("diverged", step)]
    assert f"diverged at step {step}" in caplog.text

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    # plain JSON, without NaN
    json.loads((tmp_path / "record.json").read_text(), parse_constant=refuse)
    # finished: the same command gives the same record
    assert train(blown, tmp_path, tokens=tokens, quiet=True) == record


@pytest.fixture
def lost(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run whose loss is NaN from step 7 on; it has a checkpoint of step 5."""
    one_step, done = loop.one_step, []

    def step(*given: Any) -> Any:
        done.append(given)
        loss, *rest = one_step(*given)
        return (loss * math.nan if len(done) >= 7 else loss, *rest)

    monkeypatch.setattr(loop, "one_step", step)
    return dataclasses.replace(config, log_every=100)


def saved(folder: Path) -> list[str]:
    return [path.name for path in (folder / "checkpoints").iterdir()]


def test_the_last_good_checkpoint_outlives_a_divergence(
    lost: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    # seen at the next step that is looked at
    assert train(lost, tmp_path, tokens=tokens, quiet=True)["diverged"] == 10
    assert saved(tmp_path) == ["step-00000005"]


def test_a_stop_saves_no_lost_weights(lost: TrainConfig, tokens: TokenData, tmp_path: Path) -> None:
    def interrupt(step: int, loss: float) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    record = train(lost, tmp_path, tokens=tokens, quiet=True, on_step=interrupt)
    assert record["diverged"] == 8
    assert saved(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("step", [10, 20])
def test_a_held_out_loss_that_is_not_finite_is_a_divergence(
    config: TrainConfig,
    tokens: TokenData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    evaluate, done = loop.evaluate, []

    def spy(*given: Any) -> tuple[float, float]:
        done.append(given)
        # before the first step and after every fifth
        return (math.nan, math.nan) if 5 * (len(done) - 1) == step else evaluate(*given)

    monkeypatch.setattr(loop, "evaluate", spy)
    record = train(config, tmp_path, tokens=tokens, quiet=True)
    assert record["diverged"] == step
    assert record["loss"] is record["bits_per_byte"] is record["outliers"] is None
    assert not (tmp_path / "model.safetensors").exists()
    assert [at for at, *_ in record["held_out"]] == list(range(0, step, 5))
    assert alarms_of(tmp_path)[-1]["reason"] == "diverged"


def test_one_diverged_variant_leaves_the_others_compared(
    config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, steps=4, warmup_steps=0, decay_steps=0)
    lost = {"lr": 1e18, "clip_norm": 1e30}
    variants = [
        Variant(name="lost", activation="xielu", changes=lost),
        Variant(name="kept", activation="xielu"),
    ]
    summary = matched(config, variants, tmp_path, cache_dir=cache, quiet=True)
    assert summary["variants"][0]["diverged"] and summary["variants"][0]["loss_mean"] is None
    assert summary["variants"][1]["diverged"] is None
    kept = json.loads((tmp_path / "kept/record.json").read_text())
    assert summary["batches_sha256"] == kept["batches_sha256"]


def test_the_command_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {"name": "xIELU", "parameters": 1, "tokens": 2, "loss_mean": None, "wall_s": 1.0}
    summary = {"variants": [{**ended, "bits_per_byte": None, "diverged": 7}]}
    monkeypatch.setattr("integrand.train.matched", lambda *given, **options: summary)
    assert cli.main(["train", "xielu"]) == 1
    out, err = capsys.readouterr()
    assert "diverged" in out
    assert err == (
        "integrand: xIELU diverged at step 7: loss or gradient is not finite; lower lr or"
        " clip_norm\n"
    )
