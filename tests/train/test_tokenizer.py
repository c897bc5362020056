import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from integrand.errors import DataError
from integrand.train.tokenizer import (
    encode,
    load_tokenizer,
    separator,
    token_bytes,
    train_tokenizer,
)

TEXTS = ["a plain text, a plain text", "ünïcode ☃ 𝄞\r\n\ttabs", "<|endoftext|> as text", " <x> "]


def reloaded(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder / "tokenizer.json")


@pytest.fixture
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS * 5, 300)


def test_every_byte_is_counted_and_comes_back(trained: Tokenizer, tmp_path: Path) -> None:
    # as published tokenizers have it: added tokens, a cut, padding and a template
    trained.add_tokens(["<x>", AddedToken("ï☃", normalized=False)])
    trained.enable_truncation(3)
    trained.enable_padding(length=64)
    trained.post_processor = processors.TemplateProcessing(
        "<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer = reloaded(trained, tmp_path)
    lengths = token_bytes(tokenizer)
    for text, ids in zip(TEXTS, encode(tokenizer, TEXTS, lengths), strict=True):
        assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
        assert lengths[ids].sum() == len(text.encode())
        assert separator(tokenizer) not in ids
    assert lengths[separator(tokenizer)] == 0
    assert lengths[tokenizer.token_to_id("<x>")] == 3


def test_normalised_text_is_what_counts(trained: Tokenizer, tmp_path: Path) -> None:
    trained.normalizer = normalizers.NFC()
    tokenizer = reloaded(trained, tmp_path)
    lengths = token_bytes(tokenizer)
    [ids] = encode(tokenizer, ["u\u0308"], lengths)
    assert lengths[ids].sum() == len("ü".encode())


def test_a_tokenizer_that_changes_text_is_refused(trained: Tokenizer, tmp_path: Path) -> None:
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = reloaded(trained, tmp_path)
    with pytest.raises(DataError, match=r"tokens for 3 bytes of 2 in the document .* 'ab'"):
        list(encode(tokenizer, ["ab"], token_bytes(tokenizer)))


def test_other_kinds_are_refused(trained: Tokenizer, tmp_path: Path) -> None:
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(DataError, match=r"must be byte-level.*Metaspace"):
        token_bytes(trained)
    known = json.loads(trained.to_str().replace("<|endoftext|>", "<|unknown|>"))
    with pytest.raises(DataError, match="a token that ends documents"):
        separator(Tokenizer.from_str(json.dumps(known)))
    for content in ("{}", "no JSON"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match=r"must be a tokenizer\.json") as caught:
            load_tokenizer(tmp_path / "a.json")
        assert "\n" not in str(caught.value)


def test_ids_with_gaps_have_a_length_each(trained: Tokenizer) -> None:
    known = json.loads(trained.to_str())
    known["added_tokens"].append({**known["added_tokens"][0], "id": 1000, "content": "<far>"})
    lengths = token_bytes(Tokenizer.from_str(json.dumps(known)))
    assert len(lengths) >= trained.get_vocab_size()
    assert np.all(lengths[1:257] == 1)
