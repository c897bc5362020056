from collections.abc import Iterator

import pytest
import torch

from integrand.models.decoder import DecoderConfig
from integrand.train.config import DataConfig, TrainConfig
from integrand.train.tokens import TokenData, prepare


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of a second on made-up text that repeats itself."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    lines = [f"the {a} saw the {b}" for a in ("cat", "dog", "owl") for b in ("sun", "sea", "sky")]
    path.write_text("<|endoftext|>".join(". ".join(lines[i % 7 :] * 4) for i in range(40)))
    return TrainConfig(
        model=DecoderConfig(
            **{"vocab_size": 280, "d_model": 16, "d_hidden": 24, "layers": 2, "heads": 2},
            **{"kv_heads": 1, "gated": False, "layout": "apertus", "tied": True},
        ),
        activation="relu",
        data=DataConfig(source=str(path), vocab_size=280, held_out=0.1),
        **{"steps": 20, "batch_size": 4, "context": 16, "lr": 2e-2, "warmup_steps": 4},
        **{"decay_steps": 8, "eval_every": 10, "eval_sequences": 8, "checkpoint_every": 5},
        device="cpu",
    )


@pytest.fixture(scope="session")
def run_tokens(run_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    return prepare(run_config.data, tmp_path_factory.mktemp("cache"))
