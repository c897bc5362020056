"""The folder of a run: whose it is, and what damage to it says."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from integrand.errors import DataError
from integrand.models.decoder import Decoder
from integrand.nn.groups import activation_modules
from integrand.train import checkpoint
from integrand.train.activations import chosen
from integrand.train.clamped import Clamped
from integrand.train.config import TrainConfig
from integrand.train.files import MetricsLog, read_metrics, write_json
from integrand.train.runs import export_run, load_run, open_run
from integrand.train.tokens import TokenData


def opened(
    config: TrainConfig, tokens: TokenData, folder: Path, given: Any = None, resume: bool = True
) -> Decoder:
    """A run's folder with weights in it, as after training."""
    activation = chosen(config, given)
    assert open_run(config, activation, tokens, folder, resume) is None
    model = Decoder(config.model, activation).initialise(0)
    checkpoint.save_model(folder / "model.safetensors", model)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_per_channel": True},
        {"activation_dtype": "bf16"},
        {"activation_fixed": ("alpha_n",), "activation_trained": ("beta",)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_run_is_loaded_as_it_was_trained(
    changes: dict[str, Any], config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    model = opened(dataclasses.replace(config, **changes), tokens, tmp_path)
    expected, found = model.state_dict(), load_run(tmp_path).state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_an_activation_without_a_declaration_is_asked_for(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    opened(config, tokens, tmp_path, Clamped())
    with pytest.raises(DataError, match="must have the declaration of its activation, got none"):
        export_run(tmp_path, tmp_path / "out")
    [module, *_] = activation_modules(load_run(tmp_path, Clamped())).values()
    assert type(module).__name__ == "ClampedXIELU"


@pytest.mark.parametrize("resume", [True, False])
def test_what_lies_without_an_identity_is_neither_taken_nor_removed(
    resume: bool, config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    names = ("record.json", "metrics.jsonl", "model.safetensors", "checkpoints/step-00000005/x")
    for place, name in enumerate(names):
        path = tmp_path / str(place) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        with pytest.raises(DataError, match=r"but no run.json that says whose it is"):
            open_run(config, chosen(config), tokens, tmp_path / str(place), resume)
        assert path.exists()


def test_a_kill_while_a_run_is_cleared_leaves_its_identity(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(config, tokens, tmp_path)
    (tmp_path / "checkpoints").mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(config, tokens, tmp_path, resume=False)
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(DataError, match="another config; choose another folder, or remove it"):
        opened(other, tokens, tmp_path)


def newer(known: dict[str, Any]) -> None:
    known["config"]["of_next_year"] = 1


@pytest.mark.parametrize("damage", [dict.clear, newer], ids=["empty", "newer"])
def test_a_run_that_cannot_be_read_names_its_file(
    damage: Any, config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    opened(config, tokens, tmp_path)
    path = tmp_path / "run.json"
    known = json.loads(path.read_text())
    damage(known)
    path.write_text(json.dumps(known))
    for read in (load_run, lambda folder: opened(config, tokens, folder)):
        with pytest.raises(DataError, match=r"run\.json must describe a run, got .*: .*newer"):
            read(tmp_path)


@pytest.mark.parametrize("line", ['{"kind": "tra', '{"kind": "train"}', "7"])
def test_a_damaged_line_of_the_metrics_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"kind": "train", "step": 1}}\n{line}\n{{"kind": "train", "step": 3}}\n')
    with pytest.raises(DataError, match=r"line 2 of .*metrics\.jsonl must be a JSON object"):
        list(read_metrics(path))


def test_the_kept_rows_are_on_the_disk_before_they_replace_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n')
    before = path.read_text()
    seen: list[str] = []
    monkeypatch.setattr("os.fsync", lambda _: seen.append(path.read_text()))
    with MetricsLog(path, 1) as log:
        assert [row["step"] for row in log.kept] == [1]
    assert seen == [before]


def test_json_has_no_number_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    inf = float("inf")
    write_json(path, {"loss": -inf, "rows": [(1, float("nan")), (2, 0.5)], "name": "NaN"})
    assert json.loads(path.read_text()) == {
        "loss": None,
        "rows": [[1, None], [2, 0.5]],
        "name": "NaN",
    }
