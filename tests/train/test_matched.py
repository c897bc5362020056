import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from integrand.activation import activation as from_catalogue
from integrand.errors import Error
from integrand.train.config import TrainConfig, Variant
from integrand.train.files import read_json, read_metrics
from integrand.train.matched import check_matched, matched, variant_config
from integrand.train.recipes import demo

VARIANTS = (
    Variant(name="SwiGLU", activation="silu", gated=True),
    Variant(name="ReLU2", activation="relu2"),
    Variant(name="xIELU", activation="xielu"),
)


@pytest.fixture(scope="module")
def run(
    config: TrainConfig, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("matched")
    short = dataclasses.replace(config, steps=6, warmup_steps=2, decay_steps=2)
    return folder, matched(short, VARIANTS, folder, cache_dir=cache, quiet=True)


def test_variants_have_equal_parameters_within_a_thousandth() -> None:
    recipe = demo()
    activations = [from_catalogue(v.activation) for v in recipe.variants]
    configs = [variant_config(recipe.config, v) for v in recipe.variants]
    # embedding, last norm, per layer: two norms, q k v o, q_norm k_norm
    shared = 1 + 1 + recipe.config.model.layers * (2 + 4 + 2)
    assert check_matched(recipe.variants, configs, activations) == shared


def test_unequal_parameters_are_refused(config: TrainConfig) -> None:
    configs = [variant_config(config, v) for v in VARIANTS]
    configs[1] = dataclasses.replace(
        configs[1], model=dataclasses.replace(configs[1].model, d_hidden=40)
    )
    activations = [from_catalogue(v.activation) for v in VARIANTS]
    with pytest.raises(Error, match=r"within 0\.1 %, got \d+ for ReLU2"):
        check_matched(VARIANTS, configs, activations)


def test_different_starts_are_refused(config: TrainConfig) -> None:
    configs = [variant_config(config, v) for v in VARIANTS[1:]]
    configs[1] = dataclasses.replace(configs[1], seed=1)
    activations = [from_catalogue(v.activation) for v in VARIANTS[1:]]
    with pytest.raises(Error, match="starts differently in xIELU and ReLU2"):
        check_matched(VARIANTS[1:], configs, activations)


def test_every_variant_sees_the_same_batches(run: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = run
    records = [read_json(folder / v.folder / "record.json") for v in VARIANTS]
    assert {record["batches_sha256"] for record in records} == {summary["batches_sha256"]}
    assert {record["data_sha256"] for record in records} == {summary["data_sha256"]}
    assert len({record["loss"] for record in records}) == 3


def test_the_summary_has_what_a_study_publishes(run: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = run
    assert json.loads((folder / "summary.json").read_text()) == summary
    needed = [
        "name",
        "parameters",
        "tokens",
        "seeds",
        "loss_mean",
        "loss_ci",
        "bits_per_byte",
        "wall_s",
    ]
    for variant in summary["variants"]:
        assert set(needed) <= set(variant)
        kinds = {row["kind"] for row in read_metrics(folder / variant["metrics"])}
        assert {"train", "held_out"} <= kinds
    assert {"comparisons", "min_detectable_effect", "data_sha256", "command"} <= set(summary)
    assert "not evidence" in summary["evidence"]


def test_a_second_call_reads_the_finished_runs(
    run: tuple[Path, dict[str, Any]], config: TrainConfig, cache: Path
) -> None:
    short = dataclasses.replace(config, steps=6, warmup_steps=2, decay_steps=2)
    steps: list[int] = []
    again = matched(
        short, VARIANTS, run[0], cache_dir=cache, quiet=True, on_step=lambda s, _: steps.append(s)
    )
    assert steps == []
    assert again == run[1]


def test_an_activation_from_outside_the_catalogue_takes_part(
    config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    short = dataclasses.replace(config, steps=1, warmup_steps=0, decay_steps=0)
    own = dataclasses.replace(VARIANTS[1], activation="my own")
    given = {"my own": from_catalogue("relu2")}
    with pytest.raises(Error, match="my own"):
        matched(short, [own], tmp_path, cache_dir=cache, quiet=True)
    summary = matched(
        short, [own, VARIANTS[2]], tmp_path, activations=given, cache_dir=cache, quiet=True
    )
    assert [v["activation"] for v in summary["variants"]] == ["my own", "xielu"]


def test_variants_need_distinct_names(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(Error, match="distinct names, got SwiGLU, SwiGLU"):
        matched(config, VARIANTS[:1] * 2, tmp_path)
    assert list(tmp_path.iterdir()) == []
