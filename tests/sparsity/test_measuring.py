"""`integrand sparsity` on runs and on exported folders."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from integrand import activation, cli
from integrand.errors import DataError
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.nn.jump import FATReLU
from integrand.sparsity import measuring
from integrand.sparsity.measuring import measure
from integrand.train import DataConfig, Variant, export_run, matched
from integrand.train.recipes import demo

WORDS = ["the", "gradient", "of", "a", "sum", "is", "neuron", "that", "zero", "adds", "none"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of a few steps, relu2 and swiglu, and one without weights."""
    import dataclasses

    folder = tmp_path_factory.mktemp("runs")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=60)) for _ in range(400)]
    lines = "\n".join(json.dumps({"text": t}) for t in texts)
    (folder / "text.jsonl").write_text(lines)
    config, _ = demo(str(folder / "text.jsonl"))
    model = dataclasses.replace(
        config.model, vocab_size=300, d_model=32, d_hidden=64, layers=2, heads=2, kv_heads=2
    )
    data = DataConfig(source=str(folder / "text.jsonl"), vocab_size=300, held_out=0.1)
    config = dataclasses.replace(
        *(config,),
        **{"model": model, "data": data, "steps": 4, "warmup_steps": 1, "decay_steps": 1},
        **{"batch_size": 4, "context": 16, "eval_sequences": 4, "compile": False},
    )
    variants = [Variant(name="relu2", activation="relu2", gated=False)]
    variants += [Variant(name="swiglu", activation="silu", gated=True)]
    matched(config, variants, folder / "out")
    unfinished = folder / "out" / "unfinished"
    unfinished.mkdir()
    shutil.copyfile(folder / "out" / "relu2" / "run.json", unfinished / "run.json")
    return folder


def test_a_folder_of_runs_is_measured_once(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sparsity", str(runs / "out"), "--tokens", "320", "--out", str(tmp_path / "found")]
    assert cli.main([*command, "--json", str(tmp_path / "all.json")]) == 0
    told = capsys.readouterr().out
    assert "relu2" in told and "swiglu" in told
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert summary["kind"] == "sparsity" and [m["name"] for m in summary["models"]] == [
        "relu2",
        "swiglu",
    ]
    keys = "activation loss exact_zeros cett_ppl_1 reuse coactivation_gap predictor_recall"
    assert all(k in m for m in summary["models"] for k in [*keys.split(), "decode_speedup"])
    relu2, swiglu = summary["models"]
    assert relu2["form"] == "plain" and swiglu["form"] == "gated"
    assert relu2["exact_zeros"] > 0.2 and swiglu["exact_zeros"] < 0.01
    assert relu2["tokens"] == 320 and relu2["training_tokens"] == 4 * 4 * 16
    assert json.loads((tmp_path / "all.json").read_text())["models"] == summary["models"]

    # what is there is taken, and nothing else is: other tokens are another measurement
    calls: list[str] = []
    original = measuring.analyze
    monkeypatch.setattr(
        *(measuring, "analyze"),
        lambda *a, label, **k: calls.append(label) or original(*a, label=label, **k),
    )
    assert measure(str(runs / "out"), tmp_path / "found", tokens=320)["models"] == summary["models"]
    assert calls == []
    (tmp_path / "found" / "swiglu.json").write_text("{")
    measure(str(runs / "out"), tmp_path / "found", tokens=320)
    assert calls == ["analysis of swiglu"]
    # decode speeds are read off anew wherever their table has changed; what else lies there stays
    (tmp_path / "found" / "decode.json").write_text(json.dumps(_speeds(2.0)))
    relu2, speeds = str(runs / "out" / "relu2"), tmp_path / "found" / "decode.json"
    first = measure(relu2, tmp_path / "found", tokens=160, speeds=speeds)
    assert calls == ["analysis of swiglu", "analysis of relu2"]
    # a decode part that was priced on what it was calibrated on is made again, and nothing else is
    path = tmp_path / "found" / "swiglu.json"
    swiglu = json.loads(path.read_text()) | {"decode": {"rows_read": 0.5}}
    path.write_text(json.dumps(swiglu))
    args = {"tokens": 320, "speeds": speeds}
    (again,) = measure(str(runs / "out" / "swiglu"), tmp_path / "own", **args)["models"]
    calls.pop()
    shutil.copyfile(path, tmp_path / "own" / "swiglu.json")
    (anew,) = measure(str(runs / "out" / "swiglu"), tmp_path / "own", **args)["models"]
    # to the tolerance of its search, in which a rounding may decide
    assert anew["decode"] == pytest.approx(again["decode"], abs=0.02) and len(calls) == 2
    path.write_text(json.dumps({k: v for k, v in swiglu.items() if k != "decode"}))
    assert [m["name"] for m in first["models"]] == ["relu2", "swiglu"]
    assert first["models"][1] == json.loads((tmp_path / "found" / "swiglu.json").read_text())
    one = json.loads((tmp_path / "found" / "relu2.json").read_text())
    speeds.write_text(json.dumps(_speeds(4.0)))
    second = measure(relu2, tmp_path / "found", tokens=160, speeds=speeds)
    two = second["models"][0]
    assert len(calls) == 2 and 1 < one["decode_speedup"] < two["decode_speedup"]
    assert two == {**one, "decode_speedup": two["decode_speedup"]}
    # nothing is faster where its grid chose dense
    dense = {"case": "plain-bf16", "batch": 1, "sparsity": 0.5, "dense_chosen": 1.0}
    speeds.write_text(json.dumps(_speeds(4.0) | {"grid": [dense]}))
    two = measure(relu2, tmp_path / "found", tokens=160, speeds=speeds)["models"][0]
    assert two["decode_speedup"] < second["models"][0]["decode_speedup"]
    # without a table it stays
    assert measure(relu2, tmp_path / "found", tokens=160)["models"][0] == two and len(calls) == 2
    # a version before this one held other figures
    old = {**two, "name": "old", "identity": {**two["identity"], "format": 2}}
    (tmp_path / "found" / "old.json").write_text(json.dumps(old))
    assert len(measure(relu2, tmp_path / "found", tokens=160)["models"]) == 2


def _speeds(fastest: float) -> dict[str, Any]:
    rows = [
        {"case": "plain-bf16", "sparsity": s, "speedup": v} for s, v in ((0, 1), (0.9, fastest))
    ]
    return {"kind": "sparsity_decode", "rows": rows}


def test_an_exported_folder_says_what_its_run_says(runs: Path, tmp_path: Path) -> None:
    text = str(runs / "text.jsonl")
    run = measure(str(runs / "out" / "swiglu"), data=text, tokens=320)["models"][0]
    folder = export_run(runs / "out" / "swiglu", tmp_path / "exported")
    # rows of the context it was trained with
    found = measure(str(folder), data=text, tokens=320)["models"][0]
    assert found["activation"] == "silu" and found["form"] == "gated"
    assert abs(found["loss"] - run["loss"]) < 1e-4
    assert abs(found["sparsity"]["0.2"] - run["sparsity"]["0.2"]) < 1e-3


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("unfinished", "must hold a finished run"),
        ("none", "must be a run, a folder of runs, .* got no such path"),
        ("none/", "got no such path"),
        ("none.json", "got no such path"),
        ("relu2/model.safetensors", "got a file"),
    ],
)
def test_what_is_no_model_is_refused(runs: Path, where: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        measure(str(runs / "out" / where))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    for data in ("python-docs", None):
        with pytest.raises(DataError, match="got a folder with none of these"):
            measure(str(tmp_path), data=data)


def test_a_path_with_an_at_is_whole_and_names_its_result(runs: Path, tmp_path: Path) -> None:
    folder = export_run(runs / "out" / "swiglu", tmp_path / "export@home")
    with pytest.raises(DataError, match="is no run with text of its own; pass --data"):
        measure(str(folder))
    text = str(runs / "text.jsonl")
    (row,) = measure(str(folder), tmp_path / "found", data=text, tokens=16)["models"]
    # no neuron of any layer is active for the 32 tokens that co-activation asks for
    assert row["coactivation_gap"] is None and row["coactivation_lift"] is None
    assert row["name"] == "export@home" and row["batches_sha256"] is None
    assert (tmp_path / "found" / "export@home.json").exists()


@pytest.mark.parametrize("there", [(), ("model.safetensors",), ("tokenizer.json",)])
def test_a_hub_model_without_safetensors_or_tokenizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    for name in ("config.json", *there):
        (tmp_path / name).write_text("{}")
    asked: list[str] = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path)
    )
    lacking = [n for n in ("safetensors", "tokenizer.json") if not any(n in t for t in there)]
    words = " and no ".join(n.replace("safe", r"\*.safe") for n in lacking)
    with pytest.raises(DataError, match=f"a/b@main must have safetensors .* got no {words};"):
        measure("a/b@main", data="python-docs")
    assert asked == ["a/b"]
    with pytest.raises(DataError, match="is no path here, and a hub's model has no text"):
        measure("a/b")


@pytest.mark.parametrize("rows", ["", ', "rows": 3', ', "rows": [1]'])
def test_speeds_without_rows_are_refused(tmp_path: Path, rows: str) -> None:
    (tmp_path / "decode.json").write_text('{"kind": "sparsity_decode"' + rows + "}")
    with pytest.raises(DataError, match="must hold a list of rows"):
        measure("nothing", speeds=tmp_path / "decode.json")


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"case": "plain-bf16", "sparsity": 0.5, "speedup": 0},
        {"case": "plain-bf16", "sparsity": 0.5, "speedup": "2"},
        {"case": "plain-bf16", "sparsity": float("nan"), "speedup": 2.0},
        {"case": "plain-bf16", "sparsity": 0.5, "speedup": 2.0, "rows_read": 1.5},
    ],
)
def test_speeds_are_checked_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any]
) -> None:
    path = tmp_path / "decode.json"
    path.write_text(json.dumps({"kind": "sparsity_decode", "rows": [row]}))
    assert cli.main(["sparsity", "nothing", "--speeds", str(path)]) == 2
    assert "must have a case, a sparsity" in capsys.readouterr().err


@pytest.mark.parametrize("grid", [3, [{}], [{"case": "a", "batch": 1, "sparsity": 0.5}]])
def test_a_grid_of_speeds_is_checked_too(tmp_path: Path, grid: Any) -> None:
    path = tmp_path / "decode.json"
    path.write_text(json.dumps({"kind": "sparsity_decode", "rows": [], "grid": grid}))
    with pytest.raises(DataError, match="each row of the grid"):
        measure("nothing", speeds=path)


@pytest.mark.parametrize("out", ["file", "file/inside"])
def test_out_that_is_a_file_is_refused_at_once(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="out must be a folder"):
        measure("nothing", tmp_path / out)


def test_a_run_without_a_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(DataError, match=r"run\.json must describe a run"):
        measure(str(tmp_path))


@pytest.mark.parametrize(
    "change", [None, {"model_type": "none-such"}, {"hidden_size": 16}, {"num_attention_heads": "x"}]
)
def test_a_config_that_does_not_fit_is_refused_in_a_sentence(
    runs: Path, tmp_path: Path, change: dict[str, Any] | None
) -> None:
    folder = export_run(runs / "out" / "swiglu", tmp_path / "exported")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({} if change is None else config | change))
    with pytest.raises(DataError, match="must hold a causal language model that transformers"):
        measure(str(folder), data=str(runs / "text.jsonl"), tokens=16)


def test_a_result_is_of_its_activation_separator_and_training_rows() -> None:
    rows, fatrelu = torch.arange(12).view(2, 6), FATReLU(0.1)
    config = DecoderConfig(
        vocab_size=40, d_model=16, d_hidden=48, layers=1, heads=2, kv_heads=2, gated=False
    )

    def subject(act: Any = fatrelu, **more: Any) -> measuring.Subject:
        given = {"training": rows, "separator": 0, **more}
        return measuring.Subject("a", "b", Decoder(config, act).initialise(0), rows, **given)

    subjects = [subject(), subject(FATReLU(0.2)), subject(activation("relu"))]
    subjects += [subject(separator=None), subject(training=None), subject(training=rows + 1)]
    found = [measuring._identity(s) for s in subjects]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert measuring._identity(subject()) == found[0]


def test_a_share_counts_every_linear_map_once_a_token() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    # its maps are Conv1D: 2 (3 + 1) 16² in attention, 4 · 16 · 64 in the blocks, and the head
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    assert measuring._share(GPT2LMHeadModel(config)) == 4096 / (2048 + 4096 + 512)
    shape = {"vocab_size": 40, "d_model": 16, "d_hidden": 48, "layers": 1, "heads": 2}
    gated = Decoder(DecoderConfig(**shape, kv_heads=2, gated=True), activation("silu"))
    assert measuring._share(gated) == 2304 / (1024 + 2304 + 640)


def test_fewer_tokens_than_a_row_are_refused(runs: Path) -> None:
    with pytest.raises(DataError, match=r"context of 16 at least, got 15; pass --tokens 16"):
        measure(str(runs / "out" / "relu2"), tokens=15)


def test_bad_input_has_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sparsity", "no-such-folder", "--tokens", "0"]) == 2
    assert "at least 1, got 0" in capsys.readouterr().err
