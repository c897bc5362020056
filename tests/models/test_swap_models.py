"""`swap` on transformers' own models, tiny and random, built from their configs."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import integrand as ig

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
VISION = {k: v for k, v in ENCODER.items() if "_id" not in k and k != "vocab_size"}
VISION |= {"image_size": 16, "patch_size": 8}

# class, config, sites that are replaced, block, sites that are kept
MODELS: dict[str, tuple[str, dict[str, Any], int, str, int]] = {
    "Apertus": ("ApertusForCausalLM", LLAMA, 2, "plain", 0),
    "BERT": ("BertModel", ENCODER, 2, "plain", 1),
    "Bloom": ("BloomForCausalLM", {**ENCODER, "n_head": 4}, 2, "plain", 0),
    "Gemma2": ("Gemma2ForCausalLM", {**LLAMA, "head_dim": 8}, 2, "gated", 0),
    "Gemma3": ("Gemma3ForCausalLM", {**LLAMA, "head_dim": 8}, 2, "gated", 0),
    "GPT-2": ("GPT2LMHeadModel", {**ENCODER, "n_head": 4}, 2, "plain", 0),
    "GPT-NeoX": ("GPTNeoXForCausalLM", ENCODER, 2, "plain", 0),
    "Llama": ("LlamaForCausalLM", LLAMA, 2, "gated", 0),
    "Llama 4": (
        "Llama4ForCausalLM",
        {**LLAMA, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64},
        4,
        "gated",
        0,
    ),
    "Mistral": ("MistralForCausalLM", LLAMA, 2, "gated", 0),
    "Mixtral": ("MixtralForCausalLM", {**LLAMA, "num_local_experts": 4}, 2, "gated", 0),
    "OPT": (
        "OPTForCausalLM",
        {**ENCODER, "ffn_dim": 64, "word_embed_proj_dim": 32},
        2,
        "plain",
        0,
    ),
    "Phi": ("PhiForCausalLM", LLAMA, 2, "plain", 0),
    "Phi-3 (fused)": ("Phi3ForCausalLM", LLAMA, 2, "gated", 0),
    "Qwen2": ("Qwen2ForCausalLM", LLAMA, 2, "gated", 0),
    "Qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}, 2, "gated", 0),
    "Swin v2": (
        "Swinv2Model",
        {"embed_dim": 16, "depths": [1], "num_heads": [4], "image_size": 32, "window_size": 4},
        1,
        "plain",
        1,
    ),
    "T5 (gated)": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 4, "d_kv": 8, "vocab_size": 64}
        | {"feed_forward_proj": "gated-gelu"},
        2,
        "gated",
        0,
    ),
    "ViT": ("ViTForImageClassification", VISION, 2, "plain", 0),
}


def build(name: str, **changes: Any) -> Any:
    cls = getattr(transformers, MODELS[name][0])
    torch.manual_seed(0)
    return cls(cls.config_class(**{**MODELS[name][1], **changes})).eval()


def inputs(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        dtype = next(model.parameters()).dtype
        pixels = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
        return {"pixel_values": pixels.to(dtype)}
    ids = torch.randint(3, 64, (2, 12), generator=generator)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, **more}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(model))[0]


def same_state(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in after)


@pytest.mark.parametrize("name", MODELS)
def test_swap_trains_reloads_and_comes_back_bit_for_bit(name: str) -> None:
    model = build(name)
    _, _, replaced, kind, kept = MODELS[name]
    state, before = copy.deepcopy(model.state_dict()), logits(model)
    modules = dict(model.named_modules(remove_duplicate=False))

    swap = ig.swap(model, "xiprelu")
    assert len(swap.replaced) == replaced and {s.kind for s in swap.replaced} == {kind}
    assert len(swap.sites) == replaced + kept
    new = {s.name: model.get_submodule(s.name) for s in swap.replaced}
    swapped = logits(model)
    assert swapped.isfinite().all() and not torch.equal(swapped, before)

    # one step reaches every parameter of every new activation
    optimiser = torch.optim.SGD([p for m in new.values() for p in m.parameters()], lr=0.1)
    start = [p.detach().clone() for m in new.values() for p in m.parameters()]
    out = model(**inputs(model))[0]
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)))
    optimiser.step()
    model.zero_grad()
    moved = [p.detach() for m in new.values() for p in m.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(start, moved, strict=True))

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = build(name)
    ig.swap(again, "xiprelu")
    again.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(logits(again), logits(model))

    swap.undo()
    assert dict(model.named_modules(remove_duplicate=False)) == modules
    assert same_state(model, state) and torch.equal(logits(model), before)


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "ViT", "Mixtral", "Phi-3 (fused)"])
def test_the_same_function_gives_the_same_logits(name: str) -> None:
    """Against fp64: the swapped fp32 model is as near as the original, and so is fp64 itself."""
    field = {"GPT-2": "activation_function"}.get(name, "hidden_act")
    model = build(name, **{field: "silu"})
    # the grouped product of experts takes no fp64
    model.config._experts_implementation = "eager"
    wide = copy.deepcopy(model).double()
    truth, original = logits(wide), logits(model)
    error = (original - truth).abs().max().item()

    ig.swap(model, "silu")
    ig.swap(wide, "silu")
    eps = torch.finfo(torch.float32).eps
    band = eps * truth.abs().max().item()
    assert (logits(model) - truth).abs().max().item() <= 2 * error + band
    # both functions round in fp64: what fp32 loses, times 2^-29, and 4 ulp where torch has 1
    assert (logits(wide) - truth).abs().max().item() <= 4 * 2.0**-29 * (2 * error + band)


def test_an_apertus_keeps_its_trained_activations() -> None:
    """transformers' XIELUActivation in bf16: raw numbers, constants and dtype as they are."""
    model = build("Apertus", dtype=torch.bfloat16).to(torch.bfloat16)
    raw = {"alpha_p": 166.0, "alpha_n": 40.75}
    with torch.no_grad():
        for key, value in raw.items():
            getattr(model.model.layers[0].mlp.act_fn, key).fill_(value)
    state = copy.deepcopy(model.state_dict())
    swap = ig.swap(model, "xielu")
    assert all(s.carried == ("alpha_p", "alpha_n", "beta", "eps") for s in swap.replaced)
    assert model.model.layers[0].mlp.act_fn.alpha_p.item() == 166.0
    after = model.state_dict()
    assert set(after) == set(state)
    for key in after:
        assert after[key].dtype == state[key].dtype, key
        assert torch.equal(after[key].flatten(), state[key].flatten()), key
    model.load_state_dict(state, strict=True)
    # the checkpoint is transformers' own, so its config is too
    assert model.config.hidden_act == "xielu" and swap.note == ""


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "ViT", "Mixtral", "T5 (gated)"])
def test_a_swapped_model_saves_and_loads_under_its_new_name(name: str, tmp_path: Path) -> None:
    """save_pretrained, from_pretrained: the config names the activation and declares it."""
    model = build(name)
    config = model.config.to_dict()
    swap = ig.swap(model, "xiprelu")
    assert "= integrand/xiprelu" in swap.note and swap.note in str(swap)
    with torch.no_grad():
        for site in swap.replaced:
            model.get_submodule(site.name).alpha_p.normal_()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    swap.undo()
    added = {"architectures", "dtype"}  # by save_pretrained
    after = {k: v for k, v in model.config.to_dict().items() if k not in added}
    assert after == {k: v for k, v in config.items() if k not in added}


def test_a_config_that_cannot_name_the_activation_stays_and_says_so() -> None:
    """Bloom's GELU is fixed in code."""
    model = build("Bloom")
    config = model.config.to_dict()
    swap = ig.swap(model, "xiprelu")
    assert model.config.to_dict() == config
    assert "config unchanged" in swap.note and "load_state_dict" in swap.note


def test_what_computes_its_activation_inside_forward_is_refused() -> None:
    config = transformers.GptOssConfig(**LLAMA, head_dim=8, num_local_experts=4)
    model = transformers.GptOssForCausalLM(config)
    with pytest.raises(ig.SwapError, match=r"'model.layers.0.mlp.experts' .* inside forward"):
        ig.swap(model, "xielu")
    lfm = transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**LLAMA))
    with pytest.raises(ig.SwapError, match=r"'model.layers.0.feed_forward' .* inside forward"):
        ig.swap(lfm, "xielu")


def test_a_mixer_of_a_state_space_model_is_no_feed_forward_block() -> None:
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=64)
    )
    with pytest.raises(ig.SwapError, match=r"sites=.*'backbone.layers.0.mixer.act'"):
        ig.swap(model, "xielu")
    swap = ig.swap(model, "xielu", sites="*.mixer.act")
    assert [s.name for s in swap.replaced] == ["backbone.layers.0.mixer.act"]


def test_a_model_whose_forward_was_replaced_is_refused() -> None:
    """Patched kernels leave act_fn in place and do not use it: nothing would change."""
    model = build("Llama")

    def patched(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))

    mlp = model.model.layers[1].mlp
    mlp.forward = patched.__get__(mlp)
    with pytest.raises(ig.SwapError, match=r"'model.layers.1.mlp.act_fn' .* does not use 'act_fn'"):
        ig.swap(model, "xielu")


def test_a_partial_swap_warns_that_the_config_names_the_old_activation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = build("Llama")
    with caplog.at_level("WARNING", "integrand"):
        swap = ig.swap(model, "xiprelu", sites="model.layers.0.*")
    assert "config unchanged" in swap.note and model.config.hidden_act == "silu"
    (record,) = caplog.records
    assert "still names the old activation (hidden_act = silu)" in record.getMessage()
    caplog.clear()
    ig.swap(build("Llama"), "xiprelu")
    assert not caplog.records
