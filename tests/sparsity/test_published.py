"""Published sparse checkpoints by config, tensor names and title, on tiny synthetic ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import integrand as ig
from integrand.errors import DataError
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.nn.jump import FATReLU
from integrand.sparsity import feed_forwards
from integrand.sparsity.published import is_published, load_published

SHAPE = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0, "rope_scaling": None, "tie_word_embeddings": False,
}  # fmt: skip
ROWS = torch.arange(12).view(2, 6)


def _model(gated: bool, act: Any, both: bool = False, tied: bool = False) -> Decoder:
    config = DecoderConfig(
        **{"vocab_size": 40, "d_model": 16, "d_hidden": 48, "layers": 2, "heads": 2, "kv_heads": 2},
        **{"gated": gated, "activate_up": both, "tied": tied, "init_std": 0.3},
    )
    return Decoder(config, act).initialise(0)


def _write(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**SHAPE, **config}))
    return folder


def _same(model: Decoder, loaded: Decoder) -> bool:
    with torch.no_grad():
        return torch.equal(model(ROWS), loaded(ROWS))


@pytest.mark.parametrize("projection", ["gate_proj", "up_proj"])
@pytest.mark.parametrize("name", ["relu-100B", "relu2-5B"])
def test_plain_blocks_that_call_themselves_llama(
    tmp_path: Path, name: str, projection: str
) -> None:
    model = _model(False, ig.activation(name.partition("-")[0]))
    weights = {k.replace("up_proj", projection): v for k, v in model.state_dict().items()}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    folder = _write(tmp_path / name, weights, model_type="llama", hidden_act="relu")
    assert is_published(folder)
    loaded = load_published(folder)
    assert _same(model, loaded)
    assert {b.form for b in feed_forwards(loaded)} == {"plain"}


def test_a_name_must_tell_relu_from_its_square(tmp_path: Path) -> None:
    model = _model(False, ig.activation("relu2"))
    folder = _write(tmp_path / "mine", model.state_dict(), model_type="llama", hidden_act="relu")
    with pytest.raises(DataError, match="must hold relu or relu2"):
        load_published(folder)
    assert _same(model, load_published(folder, act="relu2"))
    assert _same(model, load_published(folder, title="SparseLLM/relu2-100B"))


@pytest.mark.parametrize(("name", "act"), [("reglu-5B", "relu"), ("swiglu-5B", "silu")])
def test_gated_blocks_are_stock_llama(tmp_path: Path, name: str, act: str) -> None:
    from transformers import LlamaForCausalLM

    model = _model(True, ig.activation(act))
    folder = _write(tmp_path / name, model.state_dict(), model_type="llama", hidden_act=act)
    assert not is_published(folder)
    loaded, stock = load_published(folder), LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ROWS), stock(ROWS).logits, rtol=1e-4, atol=1e-4)


def test_pickled_weights_of_a_stock_llama_are_left_to_transformers(tmp_path: Path) -> None:
    from integrand.sparsity.measuring import _transformers

    model = _model(True, ig.activation("silu"))
    config = json.dumps({**SHAPE, "model_type": "llama", "hidden_act": "silu"})
    (tmp_path / "config.json").write_text(config)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert not is_published(tmp_path)
    loaded = _transformers(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ROWS).logits, model(ROWS), rtol=1e-4, atol=1e-4)
    # plain blocks: stock code would draw an up projection at random
    plain = _model(False, ig.activation("relu")).state_dict()
    torch.save(
        {k.replace("up_proj", "gate_proj"): v for k, v in plain.items()},
        tmp_path / "pytorch_model.bin",
    )
    with pytest.raises(DataError, match=r"got none for 'model.layers.0.mlp.up_proj.weight' and 1"):
        _transformers(tmp_path)


def test_prosparse(tmp_path: Path) -> None:
    model = _model(True, FATReLU(0.25))
    config = {"model_type": "sparsellama", "hidden_act": "fatrelu", "hidden_act_param": 0.25}
    folder = _write(tmp_path / "prosparse-llama-2-7b", model.state_dict(), **config)
    assert is_published(folder) and _same(model, load_published(folder))
    other = _write(tmp_path / "other", model.state_dict(), model_type="sparsellama", hidden_act="x")
    with pytest.raises(DataError, match="gated by fatrelu"):
        load_published(other)
    text = _write(tmp_path / "text", model.state_dict(), **config | {"hidden_act_param": "abc"})
    with pytest.raises(DataError, match="hidden_act_param of text must be a number, got 'abc'"):
        load_published(text)
    sizes = _write(tmp_path / "sizes", model.state_dict(), **config | {"vocab_size": "many"})
    with pytest.raises(DataError, match="must hold the sizes of a Llama"):
        load_published(sizes)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("relaid", [True, False])
def test_sparselm_is_relu_whatever_it_says(tmp_path: Path, gated: bool, relaid: bool) -> None:
    model = _model(gated, ig.activation("relu"), tied=True)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    if relaid:
        turned = {"gate_proj.weight", "down_proj.weight"} | (set() if gated else {"up_proj.weight"})
        weights = {
            k.replace("_proj.weight", "_weight") if ".mlp." in k else k: (
                v.t() if k.partition(".mlp.")[2] in turned else v
            )
            for k, v in weights.items()
        }
    weights["tracker.tokens"] = torch.ones(1)
    folder = _write(
        *(tmp_path / "SparseLM", weights),
        **{"model_type": "llama_sparse_relu", "hidden_act": "silu", "tie_word_embeddings": True},
        **{"sparsity_gated_mlp": gated, "sparsity_new_intermediate_size": 48},
        intermediate_size=99,
    )
    assert is_published(folder) and _same(model, load_published(folder))


def test_bamboo_is_drelu_and_its_predictors_are_refused(tmp_path: Path) -> None:
    model = _model(True, ig.activation("relu"), both=True)
    config = {"model_type": "bamboo", "hidden_act": "relu", "sliding_window": 4096}
    loaded = load_published(_write(tmp_path / "base", model.state_dict(), **config))
    assert _same(model, loaded) and {b.form for b in feed_forwards(loaded)} == {"both"}
    weights = model.state_dict() | {"model.layers.0.mlp.predictor.fc1.weight": torch.ones(2, 2)}
    with pytest.raises(DataError, match=r"1 tensors that no part .* 'model.layers.0.mlp.predictor"):
        load_published(_write(tmp_path / "turbo", weights, **config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "opt"}, "must be of type llama"),
        ({"scale_emb": 12}, "scale_emb=12"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling="),
        ({"hidden_act": "quick"}, "hidden_act must be one of"),
        ({"intermediate_size": 40}, "must have shape"),
        ({"num_hidden_layers": 3}, "lacks 'model.layers.2"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    weights = _model(True, ig.activation("relu")).state_dict()
    config = {"model_type": "llama", "hidden_act": "relu", **change}
    with pytest.raises(DataError, match=words):
        load_published(_write(tmp_path / "it", weights, **config))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold a config\.json"):
        load_published(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "llama"}))
    with pytest.raises(DataError, match="must hold safetensors"):
        load_published(tmp_path)
