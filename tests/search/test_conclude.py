"""From the ranking of a search to runs, verdicts, files and a page."""

import json
import random
from pathlib import Path

import pytest

from integrand.errors import DataError, Error
from integrand.search.conclude import conclude, known
from integrand.search.confirm import label
from integrand.search.tiny import tiny_config
from integrand.spec import read_spec, row, to_toml
from integrand.train.files import read_json


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(["one", "two", "three"], k=90))} for _ in range(60)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({**row, "id": i}) + "\n" for i, row in enumerate(rows)))
    return path


def test_a_run_is_trained_and_all_files_are_there(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    xielu = row("xielu").spec
    found = {"name": "xielu", "key": xielu.sha256, "spec": to_toml(xielu), "numbers": {},
             "scores": {"tiny": 4.0}, "operation": "new"}  # fmt: skip
    given = {**found, "spec": to_toml(row("relu").spec), "operation": "reference"}
    summary = {"evaluated": 1, "deduplicated": 0, "objectives": ["score"], "rungs": [], "front": [],
               "ranking": [given, found], "lineage": {}, "command": "integrand search"}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    base = tiny_config(str(corpus))
    small = {"batch_size": 2, "context": 16, "eval_sequences": 4, "steps": 4, "warmup_steps": 1,
             "decay_steps": 1, "eval_every": 4, "checkpoint_every": 4}  # fmt: skip
    small["data"] = type(base.data)(source=str(corpus), vocab_size=300, held_out=0.2)
    page = conclude(folder, str(corpus), changes=small, at_most=1, quiet=True)
    (record,) = (folder / "confirm" / "records").iterdir()
    assert read_json(record)["tokens"] == 2 * 16 * 2  # the sweep has half of the steps
    (verdict,) = read_json(folder / "summary.json")["confirmed"]
    assert verdict["verdict"] == "cannot tell" and verdict["seeds"] == 0
    assert known(folder) == [verdict]
    assert read_spec(folder / "winners" / f"{label(xielu)}.toml").sha256 == xielu.sha256
    assert f"{label(xielu)}: cannot tell." in page.read_text()


def test_a_folder_without_a_ranking_is_refused(tmp_path: Path) -> None:
    assert known(tmp_path) == []
    with pytest.raises(DataError, match="run it first"):
        conclude(tmp_path, "python-docs")
    with pytest.raises(Error, match="at least 1 winner, got -1"):
        conclude(tmp_path, "python-docs", -1)
