import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import Decoder, DecoderConfig, Llama3Rope

CONFIG = DecoderConfig(
    vocab_size=96, d_model=32, d_hidden=48, layers=2, heads=4, kv_heads=2, gated=True, init_std=0.2
)
APERTUS = dataclasses.replace(CONFIG, gated=False, layout="apertus", qk_norm=True)
SCALED = dataclasses.replace(
    APERTUS, rope_theta=500.0, rope_scaling=Llama3Rope(factor=8.0, original_context=16)
)


def tokens(length: int = 40) -> torch.Tensor:
    return torch.randint(96, (3, length), generator=torch.Generator().manual_seed(1))


def peer(config: DecoderConfig) -> Any:
    """The transformers model of the same shape."""
    transformers = pytest.importorskip("transformers")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    shape = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": 128,
        "attn_implementation": "eager",
        "dtype": torch.float32,
    }
    if config.layout == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    return transformers.ApertusForCausalLM(transformers.ApertusConfig(**shape))


def band(model: Decoder) -> float:
    """Twice the fp32 rounding error of the model itself, measured against fp64."""
    narrow = model(tokens())
    wide = model.double()(tokens())
    model.float()
    return 2 * float((narrow - wide).abs().max())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (CONFIG, "silu"),
        (dataclasses.replace(CONFIG, tied=True), "silu"),
        (APERTUS, "xielu"),
        (SCALED, "xielu"),
    ],
    ids=["llama", "llama-tied", "apertus", "apertus-llama3-rope"],
)
def test_logits_equal_those_of_transformers_with_the_same_weights(
    config: DecoderConfig, name: str
) -> None:
    theirs = peer(config).eval()
    model = Decoder(config, activation(name)).initialise(0).eval()
    with torch.no_grad():
        # xielu's raw parameters are bf16 in transformers: values that both types hold
        for parameter in model.parameters():
            if parameter.shape == (1,):
                parameter.fill_(0.25)
        missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
        assert (missing, unexpected) == ([], [])
        ours, expected = model(tokens()), theirs(tokens()).logits
        assert expected.std() > 0.1
        assert (ours - expected).abs().max() <= band(model)


def test_in_bf16_no_further_from_the_truth_than_transformers() -> None:
    theirs = peer(CONFIG).eval()
    model = Decoder(CONFIG, activation("silu")).initialise(0).eval()
    with torch.no_grad():
        # values that both types hold, so that rounding in the layers is all that differs
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        theirs.load_state_dict(model.state_dict())
        truth = model(tokens())
        ours, expected = model.bfloat16()(tokens()), theirs.bfloat16()(tokens()).logits
    assert ours.dtype == torch.bfloat16
    assert (ours - truth).abs().max() <= 2 * (expected - truth).abs().max()


def test_weights_of_transformers_load_by_name() -> None:
    theirs = peer(APERTUS)
    model = Decoder(APERTUS, activation("xielu"))
    model.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(model.lm_head.weight, theirs.lm_head.weight)


@pytest.mark.parametrize("config", [CONFIG, APERTUS], ids=["llama", "apertus"])
def test_a_token_changes_no_logit_before_it(config: DecoderConfig) -> None:
    model = Decoder(config, activation("relu2")).initialise(0)
    changed = tokens().clone()
    changed[:, 20] = (changed[:, 20] + 1) % 96
    with torch.no_grad():
        before, after = model(tokens()), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_tensors_shared_by_variants_start_equal() -> None:
    gated = dict(Decoder(CONFIG, activation("silu")).initialise(3).named_parameters())
    plain_config = dataclasses.replace(CONFIG, gated=False, d_hidden=72)
    plain = dict(Decoder(plain_config, activation("xielu")).initialise(3).named_parameters())
    other = dict(Decoder(plain_config, activation("relu2")).initialise(3).named_parameters())
    shared = [n for n in gated if n in plain and gated[n].shape == plain[n].shape]
    assert len(shared) == 1 + 2 * (4 + 2) + 1 + 1
    assert all(torch.equal(gated[name], plain[name]) for name in shared)
    assert all(torch.equal(other[name], plain[name]) for name in other)
    different = dict(Decoder(CONFIG, activation("silu")).initialise(4).named_parameters())
    assert not torch.equal(different["lm_head.weight"], gated["lm_head.weight"])


def test_initial_values_follow_the_declared_scale() -> None:
    config = dataclasses.replace(CONFIG, d_model=128, d_hidden=256, layers=8, init_std=0.02)
    model = Decoder(config, activation("silu")).initialise(0)
    matrix = model.model.layers[0].mlp.up_proj.weight.detach()
    # a sample deviation of n values scatters by 1 / sqrt(2 n): five times that
    slack = 5 / (2 * matrix.numel()) ** 0.5
    assert abs(float(matrix.std()) / 0.02 - 1) <= slack
    assert (
        abs(float(model.model.layers[0].mlp.down_proj.weight.detach().std()) * 4 / 0.02 - 1)
        <= slack
    )
    assert torch.equal(model.model.norm.weight, torch.ones(128))


def test_activation_parameters_keep_their_declared_start() -> None:
    model = Decoder(APERTUS, activation("xielu")).initialise(5)
    values = model.model.layers[0].mlp.act_fn.values()
    assert abs(float(values["alpha_p"].detach()) - 0.8) <= 0.8 * 1e-6
    assert abs(float(values["alpha_n"].detach()) - 0.8) <= 0.8 * 1e-6


@pytest.mark.parametrize(
    ("change", "words"),
    [({"heads": 5}, "even multiple"), ({"kv_heads": 3}, "divide"), ({"layout": "gpt"}, "layout")],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Error, match=words):
        dataclasses.replace(CONFIG, **change)


def test_a_plain_block_has_no_second_projection_to_activate() -> None:
    with pytest.raises(Error, match="activate_up belongs to a gated block"):
        DecoderConfig(
            **{"vocab_size": 8, "d_model": 8, "d_hidden": 8, "layers": 1, "heads": 1},
            **{"kv_heads": 1, "gated": False, "activate_up": True},
        )


def test_a_compiled_graph_computes_its_angles_once() -> None:
    model = Decoder(SCALED, activation("relu"))
    calls: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        calls.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(tokens()), model(tokens()), rtol=0, atol=0)
    assert sum("angles" in call for call in calls) == 1
    assert not {"cos", "sin"} & set(calls)
