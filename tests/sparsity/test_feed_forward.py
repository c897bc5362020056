import logging

import pytest
import torch
from torch import Tensor, nn

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.nn.mlp import GatedMLP
from integrand.sparsity import FeedForward, accelerate, analyze, feed_forwards


def decoder(gated: bool, both: bool = False, act: str = "relu") -> Decoder:
    config = DecoderConfig(
        **{"vocab_size": 8, "d_model": 16, "d_hidden": 24, "layers": 2, "heads": 2, "kv_heads": 2},
        **{"gated": gated, "activate_up": both},
    )
    return Decoder(config, activation(act))


def entering(block: FeedForward, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = block.down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block.module(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (decoder(True), "gated"),
        (decoder(True, both=True), "both"),
        (decoder(False, act="xielu"), "plain"),
        (decoder(False, act="relu2").bfloat16(), "plain"),
    ],
)
def test_our_blocks(model: Decoder, form: str) -> None:
    blocks = feed_forwards(model)
    assert [(b.name, b.form, b.d_hidden) for b in blocks] == [
        (f"model.layers.{i}.mlp", form, 24) for i in range(2)
    ]
    x = torch.randn(3, 16).to(model.lm_head.weight.dtype)
    torch.testing.assert_close(blocks[0].hidden(x), entering(blocks[0], x))


def transformers_models() -> list[tuple[str, str, dict[str, int], str]]:
    llama = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    llama |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, **ids}
    opt = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    opt |= {"vocab_size": 64, "word_embed_proj_dim": 32}
    return [
        ("LlamaConfig", "LlamaForCausalLM", llama, "gated"),
        ("Phi3Config", "Phi3ForCausalLM", llama | ids, "gated"),
        ("ArceeConfig", "ArceeForCausalLM", llama | ids, "plain"),
        ("GPT2Config", "GPT2LMHeadModel", gpt, "plain"),
        ("OPTConfig", "OPTForCausalLM", opt, "plain"),
    ]


@pytest.mark.parametrize(("config", "model", "sizes", "form"), transformers_models())
def test_blocks_of_transformers(config: str, model: str, sizes: dict[str, int], form: str) -> None:
    import transformers

    built = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    blocks = feed_forwards(built)
    assert [b.form for b in blocks] == [form] * 2
    gate, up, down = blocks[1].matrices()
    assert (gate is None) == (form == "plain")
    assert down.weight.shape == up.weight.shape[::-1]
    # what the matrices say is what the block computes
    x = torch.randn(4, 32)
    values = [nn.functional.linear(x, *m) for m in (gate, up) if m is not None]
    for ours, theirs in zip(values, blocks[1].inner_values(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    # the maps of OPT belong to the layer, attention and all
    assert len(accelerate(built, break_even=1.0).left) == (2 if config == "OPTConfig" else 0)


class Swapped(nn.Module):
    """A gated block whose gate is registered second, with a norm inside if asked."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.value, self.gating = nn.Linear(8, 32), nn.Linear(8, 32)
        self.back = nn.Linear(32, 8)
        self.act = nn.SiLU()
        self.norm = nn.LayerNorm(32) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.norm(self.act(self.gating(x)) * self.value(x)))


def test_the_gate_is_found_by_what_it_does() -> None:
    block = Swapped(norm=False)
    (found,) = feed_forwards(nn.Sequential(block))
    assert found.inner == (block.gating, block.value)


def test_a_block_that_does_more_is_refused_with_the_reason() -> None:
    with pytest.raises(Error, match=r"'0\.act' is in a block that does something else"):
        feed_forwards(nn.Sequential(Swapped(norm=True)))
    with pytest.raises(Error, match="no activation is an attribute"):
        feed_forwards(nn.Linear(4, 4))


def test_a_narrow_drelu_block_is_not_taken_for_a_gated_one() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        block = GatedMLP(activation("relu"), 4, 5, activate_up=True)
        assert [b.form for b in feed_forwards(nn.Sequential(block))] == ["both"]


class Doubled(nn.Module):
    """down(2 act(gate) up), by an activation that it holds or, if `hidden`, calls."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(16, 48), nn.Linear(16, 48), nn.Linear(48, 16)
        self.act = None if hidden else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return self.down(
            (self.act(gate) if self.act else nn.functional.relu(gate)) * self.up(x) * 2
        )


@pytest.mark.parametrize(
    ("hidden", "reason"), [(False, "does something else"), (True, "calls its activation inside")]
)
def test_a_block_that_is_left_is_told(
    hidden: bool, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = decoder(True).eval()
    model.model.layers[0].mlp = Doubled(hidden)
    with caplog.at_level(logging.WARNING, "integrand"):
        found = analyze(model, torch.arange(34).view(2, 17) % 8, quiet=True)
        handle = accelerate(model, break_even=1.0)
    assert [layer.name for layer in found.layers] == ["model.layers.1.mlp"] == [*handle.blocks]
    assert found.left == handle.left == found.to_dict()["left"]
    assert [*found.left] == ["model.layers.0.mlp"] and reason in found.left["model.layers.0.mlp"]
    assert [reason in r.getMessage() for r in caplog.records] == [True, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["gate_proj", "up_proj"])
def test_a_weight_that_is_not_finite_makes_no_block_disappear(place: str, value: float) -> None:
    model = decoder(True)
    with torch.no_grad():
        model.get_submodule(f"model.layers.0.mlp.{place}").weight[3, 5] = value
    assert [b.form for b in feed_forwards(model)] == ["gated", "gated"]
    with torch.no_grad():
        model.get_submodule(f"model.layers.0.mlp.{place}").weight.fill_(float("nan"))
    # which of the forms that is cannot be told
    assert [b.name for b in feed_forwards(model)] == ["model.layers.1.mlp"]
