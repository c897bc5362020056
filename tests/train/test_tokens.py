import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from integrand.errors import DataError
from integrand.train import shards
from integrand.train.config import DataConfig, TrainConfig
from integrand.train.shards import held_out_cut, place
from integrand.train.text import Documents
from integrand.train.tokens import TokenData, open_tokens, prepare


def texts_of(config: TrainConfig) -> list[str]:
    return list(Documents(config.data.source, config.data.max_characters))


def test_tokens_decode_to_the_documents(config: TrainConfig, tokens: TokenData) -> None:
    tokenizer = Tokenizer.from_file(str(tokens.folder / "tokenizer.json"))
    texts = texts_of(config)
    cut = held_out_cut(texts, config.data.held_out)
    train = [text for text in texts if place(text) >= cut]
    held_out = [text for text in texts if place(text) < cut]
    for parts, texts in ((tokens.train, train), (tokens.held_out, held_out)):
        stream = tokenizer.decode(np.concatenate(parts).tolist(), skip_special_tokens=False)
        assert stream == "".join(text + "<|endoftext|>" for text in texts)


def test_token_bytes_add_up_to_the_text(config: TrainConfig, tokens: TokenData) -> None:
    texts = texts_of(config)
    ids = np.concatenate(tokens.train + tokens.held_out)
    assert tokens.token_bytes[ids].sum() == sum(len(text.encode()) for text in texts)


def test_two_makings_are_equal_bit_by_bit(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    again = prepare(config.data, tmp_path)
    assert again.folder != tokens.folder
    assert again.sha256 == tokens.sha256
    names = sorted(path.name for path in tokens.folder.iterdir())
    for name in names:
        assert (again.folder / name).read_bytes() == (tokens.folder / name).read_bytes()


def test_the_cache_is_used_the_second_time(
    config: TrainConfig, tokens: TokenData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("integrand.train.tokens.make", forbidden)
    assert prepare(config.data, cache).sha256 == tokens.sha256
    with pytest.raises(AssertionError, match="made again"):
        prepare(dataclasses.replace(config.data, vocab_size=300), cache)


def test_of_several_at_once_one_makes_the_tokens(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makings = []

    def slow(data: DataConfig, folder: Path) -> None:
        makings.append(folder)
        time.sleep(0.2)
        shards.make(data, folder)

    monkeypatch.setattr("integrand.train.tokens.make", slow)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: prepare(config.data, tmp_path).sha256, range(3)))
    assert len(makings) == 1
    assert len(set(made)) == 1


@pytest.mark.parametrize("offset", [0, 101, -1])
def test_one_flipped_bit_is_caught(tokens: TokenData, tmp_path: Path, offset: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokens.folder, copy)
    shard = copy / "train-00000.bin"
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="damaged; delete"):
        open_tokens(copy)


def test_a_changed_header_is_caught(tokens: TokenData, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tokens.folder, copy)
    header = json.loads((copy / "header.json").read_text())
    header["dtype"] = "uint32"
    (copy / "header.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"header\.json"):
        open_tokens(copy)
    (copy / "header.json").unlink()
    with pytest.raises(DataError, match=r"header\.json"):
        open_tokens(copy)


def test_damage_in_the_cache_is_mended_and_told(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(config.data, tmp_path)
    shard = first.folder / "held_out-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert prepare(config.data, tmp_path).sha256 == first.sha256
    assert "damaged" in caplog.text
    caplog.clear()
    prepare(config.data, tmp_path)
    assert not caplog.text


def test_the_side_of_a_document_is_decided_by_its_text_alone() -> None:
    texts = [f"text {i}" for i in range(2000)]
    cut = held_out_cut(texts, 0.2)
    assert cut == held_out_cut(texts[::-1][:1000] * 2, 0.2) == int(0.2 * 2**64)
    # four standard deviations of a binomial draw
    assert abs(sum(place(text) < cut for text in texts) - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("held_out", [1e-9, 0.5, 1 - 1e-9])
def test_neither_side_of_a_tiny_source_is_empty(held_out: float) -> None:
    for texts in (["a", "b"], ["a", "b", "c", "b"]):
        cut = held_out_cut(texts, held_out)
        assert 0 < sum(place(text) < cut for text in texts) < len(texts)


def test_a_single_document_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 distinct document"):
        held_out_cut(["same", "same"], 0.1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


KILLED = """
import os, signal, sys
from pathlib import Path
from integrand.train import shards
from integrand.train.config import DataConfig
from integrand.train.tokens import prepare

shards.SHARD_TOKENS, shards.BATCH_DOCUMENTS = 2000, 4
finish = shards._finish

def finish_and_die(open_shards, progress, *rest):
    if rest and len(progress.shards["train"]) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)  # with a shard written and not yet closed
    finish(open_shards, progress, *rest)

shards._finish = finish_and_die
prepare(DataConfig(source=sys.argv[1], vocab_size=320, held_out=0.1), sys.argv[2])
"""


def test_a_killed_making_goes_on_and_ends_bitwise_the_same(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_TOKENS", 2000)
    monkeypatch.setattr(shards, "BATCH_DOCUMENTS", 4)
    whole = prepare(config.data, tmp_path / "whole")
    assert len(whole.train) >= 4
    arguments = [sys.executable, "-c", KILLED, config.data.source, str(tmp_path / "cut"), "2"]
    killed = subprocess.run(arguments, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    [unfinished] = (tmp_path / "cut/tokens").glob("*.making")
    first = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("train-*.bin")}
    assert sorted(first) == ["train-00000.bin", "train-00001.bin"]
    again = prepare(config.data, tmp_path / "cut")
    assert files(again.folder) == files(whole.folder)
    for name, then in first.items():
        assert (again.folder / name).stat().st_mtime_ns == then


@pytest.mark.parametrize("progress", [True, False], ids=["before", "after"])
def test_a_making_killed_at_its_very_end_is_kept(
    config: TrainConfig,
    tokens: TokenData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    progress: bool,
) -> None:
    whole = tmp_path / "tokens" / tokens.folder.name
    unfinished = shutil.copytree(tokens.folder, whole.with_suffix(".making"))
    if progress:
        (unfinished / "progress.json").write_text("{}")
    monkeypatch.setattr(shards, "token_bytes", None)
    monkeypatch.setattr(shards, "_begin", None)
    assert prepare(config.data, tmp_path).folder == whole
    assert files(whole) == files(tokens.folder)


@pytest.mark.parametrize("text", ['{"cuts": 1}', "{}", "[]"])
def test_a_damaged_progress_is_one_sentence(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, text: str
) -> None:
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(DataError, match=r"progress\.json must say how far"):
        shards.make(config.data, tmp_path)


def test_shards_of_any_size_hold_the_same_tokens(
    config: TrainConfig, tokens: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1)
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 1)
    small = prepare(config.data, tmp_path)
    assert len(small.train) + len(small.held_out) == sum(tokens.header["documents"].values())
    for mine, theirs in ((small.train, tokens.train), (small.held_out, tokens.held_out)):
        assert np.array_equal(np.concatenate(mine), np.concatenate(theirs))


def test_a_given_tokenizer_makes_the_tokens_it_was_made_with(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    given = shutil.copy(tokens.folder / "tokenizer.json", tmp_path / "own.json")
    data = dataclasses.replace(config.data, tokenizer=str(given), vocab_size=1000)
    again = prepare(data, tmp_path)
    assert files(again.folder) == files(tokens.folder)
    with pytest.raises(
        DataError, match=r"vocab_size must cover every token.* got 300; set it to 3"
    ):
        prepare(dataclasses.replace(data, vocab_size=300), tmp_path)
    data = DataConfig(source=config.data.source, tokenizer=str(tmp_path / "none.json"))
    with pytest.raises(DataError, match=r"readable tokenizer\.json"):
        prepare(data, tmp_path)


def test_impossible_settings_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vocab_size must lie between 257"):
        prepare(dataclasses.replace(config.data, vocab_size=100), tmp_path)
    with pytest.raises(DataError, match="held_out must lie between 0 and 1"):
        prepare(dataclasses.replace(config.data, held_out=1.0), tmp_path)
    assert list(tmp_path.rglob("*.bin")) == []
