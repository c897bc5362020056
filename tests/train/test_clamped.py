"""The other side of the ablation of xIELU's clamp, trained."""

import dataclasses
from pathlib import Path

import pytest

from integrand.train import train
from integrand.train.clamped import Clamped
from integrand.train.config import TrainConfig
from integrand.train.tokens import TokenData


def test_it_trains_like_the_declared_one(
    config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, steps=6, warmup_steps=1, decay_steps=2)
    clamped, declared = (
        train(config, tmp_path / str(k), activation=act, tokens=tokens, quiet=True)
        for k, act in enumerate((Clamped(), None))
    )
    # f differs by at most 1e-6 (alpha_n - beta); what few steps make of it
    assert clamped["loss"] == pytest.approx(declared["loss"], abs=1e-4)
    assert set(clamped["activation_values"]) == {"alpha_p", "alpha_n"}
