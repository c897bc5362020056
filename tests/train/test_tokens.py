import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from integrand.errors import DataError
from integrand.train.config import TrainConfig
from integrand.train.text import documents
from integrand.train.tokens import TokenData, open_tokens, prepare, split_by_document


def test_tokens_decode_to_the_documents(config: TrainConfig, tokens: TokenData) -> None:
    tokenizer = Tokenizer.from_file(str(tokens.folder / "tokenizer.json"))
    train, held_out = split_by_document(
        documents(config.data.source, config.data.max_characters), config.data.held_out
    )
    for shards, texts in ((tokens.train, train), (tokens.held_out, held_out)):
        stream = tokenizer.decode(np.concatenate(shards).tolist(), skip_special_tokens=False)
        assert stream == "".join(text + "<|endoftext|>" for text in texts)


def test_token_bytes_add_up_to_the_text(config: TrainConfig, tokens: TokenData) -> None:
    texts = documents(config.data.source, config.data.max_characters)
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

    monkeypatch.setattr("integrand.train.tokens._make", forbidden)
    assert prepare(config.data, cache).sha256 == tokens.sha256
    with pytest.raises(AssertionError, match="made again"):
        prepare(dataclasses.replace(config.data, vocab_size=300), cache)


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


def test_copies_of_a_document_stay_on_one_side() -> None:
    texts = [f"text {i // 2}" for i in range(100)]
    train, held_out = split_by_document(texts, 0.2)
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 100
    assert 20 <= len(held_out) <= 22


def test_a_single_document_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 distinct document"):
        split_by_document(["same", "same"], 0.1)


def test_impossible_settings_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vocab_size must lie between 257"):
        prepare(dataclasses.replace(config.data, vocab_size=100), tmp_path)
    with pytest.raises(DataError, match="held_out must lie between 0 and 1"):
        prepare(dataclasses.replace(config.data, held_out=1.0), tmp_path)
    assert list(tmp_path.rglob("*.bin")) == []
