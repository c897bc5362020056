"""A language model per candidate, and text that the search keeps its hands off."""

import dataclasses
import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import integrand as ig
from integrand.errors import DataError, Error
from integrand.search.candidate import Candidate
from integrand.search.documents import split_documents
from integrand.search.tiny import Tiny, tiny_config, tiny_rung
from integrand.spec import Spec
from integrand.train import TrainConfig, train
from integrand.train.text import Documents

SPEC = Spec(name="g", gradient="1 if x > 0 else a", params={"a": ig.Param(0.1)})


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(40)]
    return [" ".join(draw.choices(words, k=120)) for _ in range(30)]


@pytest.fixture(scope="module")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*texts, texts[0]]))
    return path


@pytest.fixture(scope="module")
def config(corpus: Path) -> TrainConfig:
    base = tiny_config(str(corpus), steps=20)
    model = dataclasses.replace(base.model, vocab_size=300, d_model=16, d_hidden=24, layers=1)
    data = dataclasses.replace(base.data, vocab_size=300, held_out=0.1)
    return dataclasses.replace(
        base, model=model, data=data, batch_size=4, context=16, eval_sequences=8
    )


def test_the_score_is_the_loss_of_the_ordinary_loop(config: TrainConfig, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    score = Tiny(config)(Candidate(SPEC, ()))["score"]
    record = train(config, tmp_path, activation=ig.derive(SPEC), quiet=True)
    assert torch.get_num_threads() == threads
    assert score == record["loss"] < record["held_out"][0][1] - 0.05
    # the declared slope is trained
    assert record["activation_values"]["a"][0] != pytest.approx(0.1, abs=1e-6)


def test_a_run_that_diverges_is_refused(config: TrainConfig) -> None:
    with pytest.raises(Error, match="finite loss"):
        Tiny(dataclasses.replace(config, lr=1e30))(Candidate(SPEC, ()))


def test_the_rung_goes_to_a_child_process() -> None:
    assert pickle.loads(pickle.dumps(tiny_rung())) == tiny_rung()


def _texts(path: Path) -> set[str]:
    return {json.loads(line)["text"] for line in path.read_text().splitlines()}


def test_no_document_is_on_both_sides(corpus: Path, texts: list[str], tmp_path: Path) -> None:
    halves = split_documents(str(corpus), tmp_path)
    search, confirm = map(_texts, halves)
    assert search | confirm == set(texts) and not search & confirm and search and confirm
    before = halves.search.stat().st_mtime_ns
    assert split_documents(str(corpus), tmp_path) == halves
    assert halves.search.stat().st_mtime_ns == before


def test_who_splits_at_the_same_time_finds_both_halves_whole(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = split_documents(str(corpus), tmp_path / "text")
    whole = [half.read_bytes() for half in halves]
    # another one has looked before we wrote this, and is in the middle now
    (tmp_path / "text" / "split.json").unlink()
    seen = []

    def reading(*given: Any) -> Iterator[str]:
        for text in Documents(*given):
            seen.append([half.read_bytes() for half in halves])
            yield text

    monkeypatch.setattr("integrand.search.documents.Documents", reading)
    split_documents(str(corpus), tmp_path / "text")
    assert len(seen) > 9 and all(
        found == whole for found in [*seen, [*map(Path.read_bytes, halves)]]
    )
    assert {path.name for path in (tmp_path / "text").iterdir()} == {
        "search.jsonl", "confirm.jsonl", "split.json"
    }  # fmt: skip


def test_other_text_is_split_anew_and_one_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    for n in (20, 1):
        path.write_text("".join(json.dumps({"text": f"number {i}"}) + "\n" for i in range(n)))
        if n > 1:
            halves = split_documents(str(path), tmp_path / "halves")
            assert len(_texts(halves.search) | _texts(halves.confirm)) == n
    with pytest.raises(DataError, match="documents each"):
        split_documents(str(path), tmp_path / "halves")
