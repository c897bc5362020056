import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from integrand.models.decoder import DecoderConfig
from integrand.train.config import DataConfig, TrainConfig
from integrand.train.tokens import TokenData, prepare


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    # tensors this small lose time to a second thread, and the tests run side by side
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few dozen documents of made-up, learnable text."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=150)) for _ in range(40)]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("<|endoftext|>".join(texts))
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def config(corpus: Path) -> TrainConfig:
    """A run of a second: 20 steps of a decoder of a few thousand parameters."""
    return TrainConfig(
        model=DecoderConfig(
            vocab_size=320,
            d_model=16,
            d_hidden=24,
            layers=2,
            heads=2,
            kv_heads=1,
            gated=False,
            layout="apertus",
            qk_norm=True,
            tied=True,
        ),
        activation="xielu",
        data=DataConfig(source=str(corpus), vocab_size=320, held_out=0.1),
        steps=20,
        batch_size=4,
        context=16,
        lr=2e-2,
        warmup_steps=4,
        decay_steps=8,
        eval_every=5,
        eval_sequences=8,
        checkpoint_every=5,
        device="cpu",
    )


@pytest.fixture(scope="session")
def tokens(config: TrainConfig, cache: Path) -> TokenData:
    return prepare(config.data, cache)
