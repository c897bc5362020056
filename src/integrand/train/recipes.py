"""Runs as Python functions that return their full config."""

from typing import NamedTuple

from integrand.models.decoder import DecoderConfig
from integrand.train.config import DataConfig, TrainConfig, Variant


class Recipe(NamedTuple):
    """The arguments of `matched`, less the folder."""

    config: TrainConfig
    variants: tuple[Variant, ...]


def demo(data: str = "python-docs") -> Recipe:
    """SwiGLU, ReLU^2 and xIELU in a decoder of 0.9 M parameters: minutes on two CPU cores.

    The proportions of arXiv:2411.13010 at toy size: one width rule (1.5x for plain blocks), AdamW
    (0.9, 0.95), decay 0.1, clipping at 1, WSD with a 1-sqrt decay to 0. The initial deviation is
    that of published models at this width: 0.57 / sqrt(d_model). A smoke test.
    """
    vocabulary = 2048
    config = TrainConfig(
        model=DecoderConfig(
            vocab_size=vocabulary,
            d_model=128,
            d_hidden=256,
            layers=4,
            heads=4,
            kv_heads=2,
            gated=True,
            layout="apertus",
            qk_norm=True,
            tied=True,
            init_std=0.05,
        ),
        activation="silu",
        data=DataConfig(source=data, vocab_size=vocabulary, max_characters=4_000_000),
        steps=400,
        batch_size=8,
        context=128,
        lr=3e-3,
        warmup_steps=20,
        decay_steps=130,
        eval_every=50,
        eval_sequences=64,
        checkpoint_every=100,
        device="cpu",
    )
    return Recipe(config, COMPARED)


COMPARED = (
    Variant(name="SwiGLU", activation="silu", gated=True),
    Variant(name="ReLU2", activation="relu2"),
    Variant(name="xIELU", activation="xielu"),
)
