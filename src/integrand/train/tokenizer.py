"""A byte-level BPE, trained on the text or taken from a file, and the bytes behind each token."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from integrand.errors import DataError
from integrand.train.text import SEPARATOR

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BPE_CHARACTERS = 20_000_000  # the merges of a small vocabulary have settled long before
# what ends a document in the tokenizers in use: GPT-2 and Qwen, Llama 3, DeepSeek, Apertus, Gemma
SEPARATORS = (SEPARATOR, "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """A byte-level BPE: any text encodes, every token stands for a known number of bytes."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise DataError("making tokens needs tokenizers; pip install 'integrand[demo]'") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(_first(texts, BPE_CHARACTERS)), trainer)
    return tokenizer


def load_tokenizer(path: Path | str) -> "Tokenizer":
    """The tokenizer of a tokenizer.json, set so that text is text.

    What looks like a special token within a document is encoded as any other characters: only
    document ends get a separator. Nothing is added, cut or padded.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise DataError("making tokens needs tokenizers; pip install 'integrand[demo]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # the library raises plain Exception for a missing and for a malformed file
        raise DataError(
            f"tokenizer must be a tokenizer.json of the tokenizers library, got {str(path)!r}: "
            f"{error}; save one with tokenizer.save(...)"
        ) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def separator(tokenizer: "Tokenizer") -> int:
    """The id of the token that ends a document: the first of SEPARATORS that there is."""
    for name in SEPARATORS:
        index = tokenizer.token_to_id(name)
        if index is not None:
            return index
    raise DataError(
        f"a tokenizer must have a token that ends documents, one of {', '.join(SEPARATORS)}, got "
        "none of them; add one with tokenizer.add_special_tokens(...)"
    )


def token_bytes(tokenizer: "Tokenizer") -> np.ndarray:
    """Bytes of text behind each id, (largest id + 1,) int64; 0 for special tokens.

    In the byte-level alphabet each character of a token is one byte.
    """
    stages = json.dumps(json.loads(tokenizer.to_str())["pre_tokenizer"])
    if '"ByteLevel"' not in stages:
        raise DataError(
            "a tokenizer must be byte-level, so that the bytes behind each token are known, got "
            f"the pre-tokenizer {stages:.80}; take one of the GPT-2, Llama 3, Qwen or Apertus kind"
        )
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, index in vocabulary.items():
        lengths[index] = len(token)
    for index, added in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if added.special else len(added.content.encode())
    return lengths


def encode(tokenizer: "Tokenizer", texts: list[str], lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Token ids of each text, whose bytes by `lengths` add up to the text's own."""
    normalizer = tokenizer.normalizer
    for text, encoding in zip(
        texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True
    ):
        ids = np.array(encoding.ids, dtype=np.int64)
        # the text that tokens stand for is the one after Unicode normalisation, if there is any
        text = normalizer.normalize_str(text) if normalizer is not None else text
        if (found := int(lengths[ids].sum())) != (wanted := len(text.encode())):
            raise DataError(
                f"a tokenizer must keep every byte of the text, got tokens for {found} bytes of "
                f"{wanted} in the document that starts {text[:40]!r}; turn off add_prefix_space "
                "and give it all 256 bytes"
            )
        yield ids


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
