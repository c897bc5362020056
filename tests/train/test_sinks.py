import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from integrand import cli
from integrand.errors import Error
from integrand.train import train
from integrand.train.config import TrainConfig
from integrand.train.files import read_metrics
from integrand.train.sinks import numbers, open_sinks
from integrand.train.tokens import TokenData


class Session:
    """What wandb and trackio have: init, log, finish."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init(self, **given: Any) -> None:
        self.calls.append(("init", given["project"], given["config"]["activation"]))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((step, values))

    def finish(self) -> None:
        self.calls.append("finish")


class Writer:
    """What TensorBoard's SummaryWriter has."""

    scalars: list[tuple[str, float, int]]

    def __init__(self, folder: Path) -> None:
        type(self).scalars = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None: ...


def test_rows_become_named_numbers() -> None:
    row = {"kind": "activation", "step": 3, "values": {"alpha_p": [0.5, 1]}}
    assert numbers(row) == {"activation/alpha_p/0": 0.5, "activation/alpha_p/1": 1.0}
    row = {"kind": "alarm", "step": 3, "reason": "spike", "loss": 9.0}
    assert numbers(row) == {"alarm/loss": 9.0}


def test_every_row_of_the_metrics_goes_to_every_sink(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio, wandb = Session(), Session()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tensorboard = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    short = dataclasses.replace(config, steps=3, warmup_steps=0, decay_steps=0)
    names = ("tensorboard", "trackio", "wandb")
    train(short, tmp_path, tokens=tokens, quiet=True, sinks=names)
    wanted = [(row["step"], numbers(row)) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert {"train/loss", "held_out/bits_per_byte", "activation/alpha_n/1"} <= {
        name for _, values in wanted for name in values
    }
    for session in (trackio, wandb):
        assert session.calls == [("init", "integrand", "xielu"), *wanted, "finish"]
    assert Writer.scalars == [
        (name, value, step) for step, values in wanted for name, value in values.items()
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_library_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    missing = pytest.raises(Error, match=f"needs the library {name}; pip install {name}")
    with missing, open_sinks([name], tmp_path, {}):
        pass


def test_an_unknown_sink_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(Error, match="one of tensorboard, trackio, wandb, got 'mlflow'")
    with refused, open_sinks(["mlflow"], tmp_path, {}):
        pass


def test_the_command_passes_sinks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(*given: Any, **options: Any) -> dict[str, Any]:
        seen.update(options)
        return {"variants": []}

    monkeypatch.setattr("integrand.train.matched", record)
    assert cli.main(["train", "xielu", "--sink", "wandb", "--sink", "tensorboard"]) == 0
    assert seen["sinks"] == ("wandb", "tensorboard")
