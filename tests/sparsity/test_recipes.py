import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from integrand.errors import DataError
from integrand.models.decoder import Decoder
from integrand.sparsity import feed_forwards
from integrand.sparsity.recipes import induced
from integrand.sparsity.shifted import stable_start
from integrand.train import matched
from integrand.train.config import TrainConfig
from integrand.train.files import read_json, write_json
from integrand.train.loop import build
from integrand.train.matched import variant_config
from integrand.train.runs import load_run
from integrand.trained import recipe

ROWS = torch.randint(0, 280, (8, 16), generator=torch.Generator().manual_seed(0))


def zeros(model: Decoder) -> list[float]:
    """The share of zeros in each block."""
    found: list[float] = []
    for block in feed_forwards(model):
        block.down.register_forward_pre_hook(
            lambda _, given: found.append(float((given[0] == 0).float().mean()))
        )
    with torch.no_grad():
        model(ROWS)
    return found


def test_the_ways_train_beside_plain_relu_and_load_from_their_folders_alone(
    run_config: TrainConfig, tmp_path: Path
) -> None:
    _, variants, activations = induced()
    assert variants[0].name == "ReLU" and activations[variants[0].activation].name == "relu"
    assert len({v.activation for v in variants}) == len(variants) - 1  # dReLU is relu twice
    # the others have runs of their own in their tests
    variants = [v for v in variants if v.name in ("ReLU", "swap L1", "clipped", "FATReLU", "dReLU")]
    wide = dataclasses.replace(run_config.model, d_hidden=24, gated=True)
    short = dataclasses.replace(run_config, model=wide, steps=4, warmup_steps=1, decay_steps=2)
    summary = matched(
        *(short, variants, tmp_path / "runs"),
        activations=activations,
        cache_dir=tmp_path / "cache",
        quiet=True,
    )
    assert len(summary["variants"]) == len(variants) == 5
    folder = tmp_path
    for variant in variants:
        folder = tmp_path / "runs" / variant.folder
        assert all(share > 0.3 for share in zeros(load_run(folder))), variant.name
    # a run of another kind still says what it needs
    known = read_json(folder / "run.json")
    known["activation"] = None
    write_json(folder / "run.json", known)
    with pytest.raises(DataError, match="pass the activation"):
        load_run(folder)


@pytest.mark.parametrize("name", ["shifted", "clipped"])
def test_shifts_start_with_the_zeros_they_are_made_for(name: str) -> None:
    config, variants, activations = induced()
    variant = next(v for v in variants if v.name == name)
    model = build(variant_config(config, variant), activations[variant.activation])
    # 6 blocks of 624 neurons with random weights: a share is within 5 sqrt(0.16 / 624) of 0.8
    assert all(abs(share - 0.8) < 0.08 for share in zeros(model))


def test_the_clipped_way_takes_shift_and_clip_alone() -> None:
    """What the docs say of it: the weights are the control's, without biases."""
    config, variants, activations = induced()
    control, clipped = (
        build(variant_config(config, v), activations[v.activation])
        for name in ("ReLU", "clipped")
        for v in variants
        if v.name == name
    )
    weights = dict(clipped.named_parameters())
    assert weights.keys() == dict(control.named_parameters()).keys()
    assert all(torch.equal(weights[name], w) for name, w in control.named_parameters())
    assert not any(name.endswith("bias") for name in weights)
    start = stable_start(0.8, 0.5, config.model.d_model * config.model.init_std**2)
    for block in feed_forwards(clipped):
        declared = {n: float(p.init) for n, p in cast(Any, block.act).spec.params.items()}
        assert declared == {"t": start.shift, "m": start.clip}


def test_the_command_line_knows_it() -> None:
    config, variants, activations = recipe((), "text.txt", steps=80, name="sparsity-induced")
    assert config.data.source == "text.txt" and config.steps == 80
    assert {v.activation for v in variants} <= activations.keys()
    _, chosen, named = recipe(("relu2",), None, name="sparsity-induced")
    assert [v.activation for v in chosen] == ["relu2"] == list(named)
