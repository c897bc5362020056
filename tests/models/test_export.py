import dataclasses
import json
from pathlib import Path

import pytest
import torch

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import Decoder, DecoderConfig, Llama3Rope
from integrand.models.export import NATIVE, export
from integrand.train.clamped import Clamped

transformers = pytest.importorskip("transformers")

LLAMA = DecoderConfig(
    vocab_size=96, d_model=32, d_hidden=48, layers=2, heads=4, kv_heads=2, gated=True, init_std=0.2
)
APERTUS = dataclasses.replace(LLAMA, gated=False, layout="apertus", qk_norm=True)
ARCEE = dataclasses.replace(LLAMA, gated=False)
QWEN3 = dataclasses.replace(LLAMA, qk_norm=True)
SCALED = dataclasses.replace(
    APERTUS, rope_theta=500.0, rope_scaling=Llama3Rope(factor=8.0, original_context=16)
)
TOKENS = torch.randint(96, (3, 40), generator=torch.Generator().manual_seed(1))


def trained(config: DecoderConfig, name: str) -> Decoder:
    """A decoder whose norms and activation parameters are not where they started."""
    model = Decoder(config, activation(name)).initialise(0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter += 0.3 * torch.rand(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    ("config", "name", "architecture", "hidden_act"),
    [
        (LLAMA, "silu", "LlamaForCausalLM", "silu"),
        (dataclasses.replace(LLAMA, tied=True), "xielu", "LlamaForCausalLM", "integrand/xielu"),
        (APERTUS, "xielu", "ApertusForCausalLM", "xielu"),
        (SCALED, "xielu", "ApertusForCausalLM", "xielu"),
        (APERTUS, "xiprelu", "ApertusForCausalLM", "integrand/xiprelu"),
        (ARCEE, "relu2", "ArceeForCausalLM", "relu2"),
        (ARCEE, "xielu", "ArceeForCausalLM", "integrand/xielu"),
        (QWEN3, "silu", "Qwen3ForCausalLM", "silu"),
        (dataclasses.replace(QWEN3, tied=True), "xielu", "Qwen3ForCausalLM", "integrand/xielu"),
        # the norms' names of the other layout
        (dataclasses.replace(APERTUS, layout="llama"), "xielu", "ApertusForCausalLM", "xielu"),
        (dataclasses.replace(QWEN3, layout="apertus"), "silu", "Qwen3ForCausalLM", "silu"),
        (dataclasses.replace(LLAMA, layout="apertus"), "silu", "LlamaForCausalLM", "silu"),
        (dataclasses.replace(ARCEE, layout="apertus"), "gelu", "ArceeForCausalLM", "gelu"),
        *((APERTUS, name, "ApertusForCausalLM", act) for name, act in NATIVE.items()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_transformers_computes_the_same_logits(
    config: DecoderConfig, name: str, architecture: str, hidden_act: str, tmp_path: Path
) -> None:
    model = trained(config, name)
    folder = export(model, tmp_path / "out", context=64)
    loaded, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert type(loaded).__name__ == architecture
    assert loaded.config.hidden_act == hidden_act
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with torch.no_grad():
        ours, theirs = model(TOKENS), loaded(TOKENS).logits
        exact = model.double()(TOKENS)
    # another order of sums: as far from the exact logits as ours, within a factor of four
    band = 4 * (ours - exact).abs().max()
    assert (theirs - exact).abs().max() <= band


def test_raw_parameters_and_buffers_travel_bit_by_bit(tmp_path: Path) -> None:
    model = trained(APERTUS, "xielu")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(export(model, tmp_path, context=64))
    wanted = model.state_dict()
    found = loaded.state_dict()
    assert {"alpha_p", "alpha_n", "beta", "eps"} <= {key.rpartition(".")[2] for key in found}
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_an_activation_without_a_declaration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="must have a declaration, got ClampedXIELU"):
        export(Decoder(LLAMA, Clamped()), tmp_path / "out", context=64)
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=96, special_tokens=["<|end|>"], show_progress=False
    )
    made.train_from_iterator(["some words, some more words"], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    source = tmp_path / "tokenizer.json"
    model = Decoder(LLAMA, activation("silu"))
    folder = export(model, tmp_path / "out", context=64, tokenizer=source, separator="<|end|>")
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded.encode("some words") == made.encode("some words").ids
    assert loaded.decode(loaded.encode("some more words")) == "some more words"
    config = json.loads((folder / "config.json").read_text())
    assert loaded.eos_token_id == config["eos_token_id"] == made.token_to_id("<|end|>")
    with pytest.raises(Error, match="must have the special token '<none>'"):
        export(model, tmp_path / "x", context=64, tokenizer=source, separator="<none>")
