import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from integrand.activation import activation as from_catalogue
from integrand.errors import DataError, Error
from integrand.train import checkpoint, loop
from integrand.train.config import TrainConfig
from integrand.train.files import read_metrics
from integrand.train.loop import compiled_loss, set_rate, train
from integrand.train.runs import load_run
from integrand.train.schedule import wsd
from integrand.train.tokens import TokenData


class Stop(Exception):
    pass


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Rows of one kind, less the wall-clock times."""
    found = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == kind]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.fixture(scope="module")
def whole(
    config: TrainConfig, tokens: TokenData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(config, folder, tokens=tokens, quiet=True)


def test_the_loss_goes_down(whole: tuple[Path, dict[str, Any]]) -> None:
    losses = [row["loss"] for row in rows(whole[0], "held_out")]
    assert len(losses) == 5
    assert losses[-1] < losses[0] - 1.0
    assert losses[-1] == whole[1]["loss"]


def test_metrics_hold_every_step_with_its_rate(
    whole: tuple[Path, dict[str, Any]], config: TrainConfig
) -> None:
    found = rows(whole[0], "train")
    assert [row["step"] for row in found] == list(range(1, 21))
    assert [row["lr"] for row in found] == [
        config.lr * wsd(step, steps=20, warmup_steps=4, decay_steps=8) for step in range(20)
    ]
    assert found[-1]["tokens"] == whole[1]["tokens"] == 20 * 4 * 16


def test_activation_parameters_are_logged_by_layer_and_move(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    found = rows(whole[0], "activation")
    assert [row["step"] for row in found] == [0, 5, 10, 15, 20]
    assert set(found[0]["values"]) == {"alpha_p", "alpha_n"}
    assert all(len(layers) == 2 for layers in found[0]["values"].values())
    assert abs(found[0]["values"]["alpha_p"][0] - 0.8) <= 0.8e-6
    moved = [abs(a - 0.8) for values in found[-1]["values"].values() for a in values]
    assert min(moved) > 1e-3
    assert found[-1]["values"] == whole[1]["activation_values"]


def test_the_saved_weights_are_those_of_the_last_step(
    whole: tuple[Path, dict[str, Any]], config: TrainConfig
) -> None:
    model = load_run(whole[0])
    assert model.config == config.model
    assert sum(p.numel() for p in model.parameters()) == whole[1]["parameters"]
    alpha = float(model.model.layers[1].mlp.act_fn.values()["alpha_p"].detach())
    assert alpha == whole[1]["activation_values"]["alpha_p"][1]
    assert not (whole[0] / "checkpoints").exists()


def test_the_record_keeps_the_course_of_the_run(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, record = whole
    assert record["held_out"] == [
        [row["step"], row["loss"], row["bits_per_byte"]] for row in rows(folder, "held_out")
    ]
    assert [step for step, _ in record["activation_history"]] == [0, 5, 10, 15, 20]
    assert record["activation_history"][-1][1] == record["activation_values"]
    # the first step of a process is not timed
    assert record["timed_steps"] == 19
    assert 0 < record["train_s"] < record["wall_s"]


@pytest.mark.parametrize("stop", [1, 4, 5, 13, 20])
def test_a_run_stopped_anywhere_goes_on_with_the_same_bits(
    whole: tuple[Path, dict[str, Any]],
    config: TrainConfig,
    tokens: TokenData,
    tmp_path: Path,
    stop: int,
) -> None:
    def interrupt(step: int, loss: float) -> None:
        if step == stop:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path, tokens=tokens, quiet=True, on_step=interrupt)
    steps: list[int] = []
    record = train(
        config, tmp_path, tokens=tokens, quiet=True, on_step=lambda step, _: steps.append(step)
    )
    # the last checkpoint written before the stop, none at the stop itself
    assert steps[0] == (stop - 1) // 5 * 5 + 1
    for kind in ("train", "held_out", "activation"):
        assert rows(tmp_path, kind) == rows(whole[0], kind)
    for key in ("batches_sha256", "held_out", "activation_history"):
        assert record[key] == whole[1][key]
    ours, theirs = (path / "model.safetensors" for path in (tmp_path, whole[0]))
    assert ours.read_bytes() == theirs.read_bytes()


KILLED = """
import json, os, signal, sys
import torch
from integrand.train.config import TrainConfig
from integrand.train.loop import train

torch.set_num_threads(int(sys.argv[4]))
config = TrainConfig.from_dict(json.loads(sys.argv[1]))

def on_step(step, loss):
    if step == 12:
        os.kill(os.getpid(), int(sys.argv[5]))

train(config, sys.argv[2], cache_dir=sys.argv[3], quiet=True, on_step=on_step)
"""


@pytest.mark.parametrize(
    ("number", "changes"),
    [(signal.SIGKILL, {"optimizer": "muon", "accumulate": 2}), (signal.SIGINT, {})],
    ids=["kill", "ctrl-c"],
)
def test_a_killed_process_leaves_a_run_that_goes_on_with_the_same_bits(
    whole: tuple[Path, dict[str, Any]],
    config: TrainConfig,
    tokens: TokenData,
    cache: Path,
    tmp_path: Path,
    number: signal.Signals,
    changes: dict[str, Any],
) -> None:
    expected = whole[0]
    if changes:
        config = dataclasses.replace(config, **changes)
        expected = tmp_path / "expected"
        train(config, expected, tokens=tokens, quiet=True)
    folder = tmp_path / "stopped"
    arguments = [json.dumps(config.to_dict()), str(folder), str(cache)]
    arguments += [str(torch.get_num_threads()), str(int(number))]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        timeout=600,
    )
    assert done.returncode == -number, done.stderr.decode()
    steps: list[int] = []
    train(config, folder, tokens=tokens, quiet=True, on_step=lambda step, _: steps.append(step))
    # ctrl-c, here between two steps, ends the next and saves it; a kill falls back to a checkpoint
    assert steps[0] == (14 if number == signal.SIGINT else 11)
    for kind in ("train", "held_out", "activation"):
        assert rows(folder, kind) == rows(expected, kind)


def test_a_damaged_checkpoint_is_one_clear_sentence(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    def interrupt(step: int, loss: float) -> None:
        if step == 6:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path, tokens=tokens, quiet=True, on_step=interrupt)
    weights = tmp_path / "checkpoints/step-00000005/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match=r"must be a safetensors file.*delete its folder"):
        train(config, tmp_path, tokens=tokens, quiet=True)


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.json"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="must describe a run"):
        load_run(tmp_path)


def test_a_finished_run_returns_its_record_untouched(
    whole: tuple[Path, dict[str, Any]], config: TrainConfig, tokens: TokenData
) -> None:
    before = (whole[0] / "metrics.jsonl").read_bytes()
    assert train(config, whole[0], tokens=tokens, quiet=True) == whole[1]
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


def test_another_config_does_not_mix_with_a_run(
    whole: tuple[Path, dict[str, Any]], config: TrainConfig, tokens: TokenData
) -> None:
    other = dataclasses.replace(config, lr=1e-3)
    with pytest.raises(DataError, match="another config; choose another folder"):
        train(other, whole[0], tokens=tokens, quiet=True)
    with pytest.raises(DataError, match="another activation"):
        train(config, whole[0], tokens=tokens, quiet=True, activation=from_catalogue("relu2"))


def test_starting_anew_forgets_the_old_run(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    short = dataclasses.replace(config, steps=3, warmup_steps=0, decay_steps=0)
    train(short, tmp_path, tokens=tokens, quiet=True)
    other = dataclasses.replace(short, seed=1)
    train(other, tmp_path, tokens=tokens, quiet=True, resume=False)
    assert [row["step"] for row in rows(tmp_path, "train")] == [1, 2, 3]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    assert list(read_metrics(path)) == [{"kind": "train", "step": 1}]


def test_activation_rates_follow_the_schedule_at_their_own_scale(config: TrainConfig) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr_scale": 0.5}])
    assert set_rate([optimizer], config, 1) == config.lr / 2
    assert optimizer.param_groups[0]["lr"] == config.lr / 4


def test_progress_goes_to_stderr(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = dataclasses.replace(config, steps=2, warmup_steps=0, decay_steps=0)
    train(short, tmp_path, tokens=tokens, label="here")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("here: step 2/2, loss ")
    assert err.endswith(" 0:00 left\n")


def test_held_out_text_takes_no_more_memory_than_a_step(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_at_once: list[int] = []

    def spy(model: Any, rows: Any, lengths: Any, at_once: int, *more: Any) -> tuple[float, float]:
        rows_at_once.append(at_once)
        return 1.0, 1.0

    monkeypatch.setattr(loop, "evaluate", spy)
    short = dataclasses.replace(
        config, accumulate=2, steps=1, warmup_steps=0, decay_steps=0, mask_documents=True
    )
    record = train(short, tmp_path, tokens=tokens, quiet=True)
    assert rows_at_once == [2, 2]
    # eight held-out rows, of which outliers are measured in the same portions
    assert record["outliers"]["elements"] == [8 * 16 * 24] * 2


def test_each_shape_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    open_sizes: list[bool] = []

    def backend(graph: Any, inputs: Any) -> Any:
        open_sizes.append(any(isinstance(each, torch.SymInt) for each in inputs))
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **given: compiler(f, backend=backend, **given))
    loss = compiled_loss()
    model = torch.nn.Embedding(7, 7)
    for width in (5, 6, 8):
        tokens = torch.arange(2 * width).view(2, width) % 7
        assert loss(model, tokens, tokens) == loop.summed_loss(model, tokens, tokens)
    assert open_sizes == [False] * 3


def test_a_disk_that_is_full_at_the_end_is_one_sentence(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, monkeypatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_model", full)
        short = dataclasses.replace(config, checkpoint_every=1000)
        with pytest.raises(Error, match="take the trained weights, got: No space left"):
            train(short, tmp_path, tokens=tokens, quiet=True)
    assert train(short, tmp_path, tokens=tokens, quiet=True)["loss"] is not None


def test_a_folder_has_one_run_at_a_time(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    short = dataclasses.replace(config, steps=2, warmup_steps=0, decay_steps=0)
    refused: list[int] = []

    def again(step: int, loss: float) -> None:
        with pytest.raises(Error, match="one process at a time trains in a folder"):
            train(short, tmp_path, tokens=tokens, quiet=True)
        refused.append(step)

    record = train(short, tmp_path, tokens=tokens, quiet=True, on_step=again)
    assert refused == [1, 2]
    assert train(short, tmp_path, tokens=tokens, quiet=True) == record


def test_tokens_are_there_before_ranks_wait_for_each_other(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    join = loop.join
    monkeypatch.setattr(loop, "prepare", lambda *given: calls.append("prepare") or tokens)
    monkeypatch.setattr(loop, "join", lambda config: calls.append("join") or join(config))
    short = dataclasses.replace(config, steps=1, warmup_steps=0, decay_steps=0)
    train(short, tmp_path, quiet=True)
    assert calls == ["prepare", "join"]
    # and what cannot become a run is refused before that
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Error, match="pass --parallel ddp or fsdp"):
        train(short, tmp_path / "two", quiet=True)
    assert calls == ["prepare", "join"]
