import dataclasses
import json
import math
from typing import Any

import pytest

from integrand.errors import Error
from integrand.models.decoder import Llama3Rope
from integrand.train.config import TrainConfig, Variant
from integrand.train.matched import variant_config
from integrand.train.recipes import demo
from integrand.train.studies.recipes import size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"warmup_steps": 15, "decay_steps": 10}, "must fit into steps"),
        ({"decay_steps": -1}, "decay_steps must be 0 or above"),
        ({"lr": 0.0}, "lr must be above 0 and finite"),
        ({"lr": float("inf")}, "lr must be above 0 and finite"),
        ({"lr": float("nan")}, "lr must be above 0 and finite"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or above"),
        ({"activation_weight_decay": -0.1}, "activation_weight_decay must be 0 or above"),
        ({"lr_first": 1.5}, "lr_first must be between 0 and 1"),
        ({"lr_last": -0.5}, "lr_last must be between 0 and 1"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and below 1"),
        ({"adam_eps": 0.0}, "adam_eps must be above 0"),
        ({"device": "gpu0"}, "device must be auto or one that torch knows"),
        # a row of context 16 has 17 tokens
        ({"goldfish_k": 2, "goldfish_context": 18}, "goldfish_context must fit"),
    ],
)
def test_impossible_runs_are_refused(
    config: TrainConfig, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(Error, match=words):
        dataclasses.replace(config, **change)


def test_what_can_just_be_is_taken(config: TrainConfig) -> None:
    dataclasses.replace(config, goldfish_k=2, goldfish_context=17, lr_first=1.0, betas=(0.0, 0.99))
    dataclasses.replace(config, goldfish_context=50, clip_norm=math.inf, weight_decay=0.0)


@pytest.mark.parametrize(
    "name", ["vocab_size", "d_model", "d_hidden", "layers", "heads", "kv_heads"]
)
def test_a_decoder_has_one_of_everything(config: TrainConfig, name: str) -> None:
    with pytest.raises(Error, match=f"{name} must be at least 1, got 0"):
        dataclasses.replace(config.model, **{name: 0})


def test_every_token_needs_an_embedding(config: TrainConfig) -> None:
    with pytest.raises(Error, match="embedding for every token"):
        dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=321))


def test_the_hash_changes_with_any_field(config: TrainConfig) -> None:
    assert dataclasses.replace(config).sha256() == config.sha256()
    assert dataclasses.replace(config, lr=config.lr * 2).sha256() != config.sha256()
    model = dataclasses.replace(config.model, norm_eps=1e-6)
    assert dataclasses.replace(config, model=model).sha256() != config.sha256()


def test_a_config_survives_json(config: TrainConfig) -> None:
    model = dataclasses.replace(config.model, rope_scaling=Llama3Rope(factor=4.0))
    scaled = dataclasses.replace(config, model=model)
    for each in (config, scaled):
        assert TrainConfig.from_dict(json.loads(json.dumps(each.to_dict()))) == each


def test_a_plain_variant_is_half_as_wide_again() -> None:
    recipe = demo()
    widths = [variant_config(recipe.config, v).model.d_hidden for v in recipe.variants]
    gated = recipe.config.model.d_hidden
    assert widths == [gated, gated * 3 // 2, gated * 3 // 2]


def test_folders_hold_no_separators() -> None:
    assert Variant(name="../a/ReLU² b", activation="relu2").folder == "---a-relu²-b"


def test_configs_from_before_a_field_keep_their_hash() -> None:
    config = size("0.1M", "python-docs")
    assert "activate_up" not in config.to_dict()["model"]
    assert TrainConfig.from_dict(config.to_dict()) == config
    both = dataclasses.replace(config, model=dataclasses.replace(config.model, activate_up=True))
    assert both.sha256() != config.sha256() and TrainConfig.from_dict(both.to_dict()) == both
