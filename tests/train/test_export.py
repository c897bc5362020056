import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrand import cli
from integrand.errors import DataError
from integrand.train import export_run, load_run, train
from integrand.train.config import TrainConfig
from integrand.train.tokens import TokenData


def test_a_run_is_exported_with_its_tokenizer(
    config: TrainConfig,
    tokens: TokenData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    transformers = pytest.importorskip("transformers")
    run, out = tmp_path / "run", tmp_path / "out"
    train(config, run, tokens=tokens, quiet=True)
    assert cli.main(["export", str(run), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer("abc def", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "abc def"
    assert tokenizer.eos_token_id == model.config.eos_token_id is not None
    ours = load_run(run)
    with torch.no_grad():
        found, exact = ours(ids), ours.double()(ids)
        assert (model(ids).logits - exact).abs().max() <= 4 * (found - exact).abs().max()


def test_a_run_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "must hold a finished run, got no run.json; check the path" in capsys.readouterr().err


def test_tasks_are_measured_by_the_harness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def simple_evaluate(**given: Any) -> dict[str, Any]:
        seen.update(given)
        return {"results": {"lambada_openai": {"alias": "lambada", "acc,none": 0.25}}}

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    assert cli.main(["evaluate", "out", "--tasks", "lambada_openai,arc_easy", "--limit", "9"]) == 0
    assert capsys.readouterr().out == "lambada_openai  acc,none  0.25\n"
    assert seen["model"] == "hf" and seen["model_args"] == {"pretrained": "out"}
    assert seen["tasks"] == ["lambada_openai", "arc_easy"] and seen["limit"] == 9


def test_without_the_harness_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert cli.main(["evaluate", "out"]) == 2
    assert capsys.readouterr().err == (
        "integrand: evaluate needs the library lm_eval; pip install 'lm_eval[hf]'\n"
    )


def test_a_folder_of_runs_names_the_runs_in_it(tmp_path):
    with pytest.raises(DataError, match=r"no run.json; check the path"):
        export_run(tmp_path, tmp_path / "out")
    (tmp_path / "xielu").mkdir()
    (tmp_path / "xielu" / "run.json").write_text("{}")
    with pytest.raises(DataError, match="pass one of its folders: xielu"):
        export_run(tmp_path, tmp_path / "out")
