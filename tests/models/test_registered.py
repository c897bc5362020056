"""`hidden_act="integrand/NAME"`: names, the declaration in the config, checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import integrand as ig

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
MINE = ig.Spec(
    name="mine",
    gradient="2*a*x + b if x > 0 else a*tanh(x) + b",
    params={"a": ig.Param(0.8, above=0), "b": ig.Param(0.5)},
)


def llama(**fields):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **fields)).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(20)[None] % 32).logits


def trained(model):
    """The model with activation parameters that no declaration has."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if ".act_fn." in name:
                parameter.fill_(0.37 + 0.11 * number)
    return model


def test_every_catalogue_name_is_known_to_both_tables():
    from transformers.activations import ACT2CLS, ACT2FN

    assert {f"integrand/{name}" for name in ig.names()} <= set(ACT2CLS) & set(ACT2FN)
    first, second = ACT2FN["integrand/xielu"], ACT2FN["integrand/xielu"]
    assert first.spec == ig.activation("xielu").spec
    assert first.alpha_p is not second.alpha_p
    assert ACT2CLS["integrand/xielu"](dtype=torch.bfloat16).alpha_p.dtype == torch.bfloat16


def test_a_model_with_a_spec_of_its_own_comes_back_as_it_was(tmp_path):
    model = trained(llama(**ig.models.config_fields(MINE)))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["hidden_act"] == "integrand/mine"
    assert ig.spec.from_toml(config["integrand"]["mine"]) == MINE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.model.layers[0].mlp.act_fn.spec == MINE
    assert torch.equal(logits(again), logits(model))


def test_the_declaration_of_a_catalogue_name_travels_too(tmp_path):
    model = llama(hidden_act="integrand/relu2")
    model.save_pretrained(tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())["integrand"]["relu2"]
    assert ig.spec.from_toml(text) == ig.activation("relu2").spec


def test_each_model_takes_the_declaration_of_its_own_config():
    other = ig.Spec(name="xielu", gradient="2*a*x if x > 0 else 0", params={"a": ig.Param(1.0)})
    first = ig.models.config_fields(MINE)
    second = ig.models.config_fields(ig.Spec(name="mine", gradient="tanh(x)"))
    assert llama(**first).model.layers[1].mlp.act_fn.spec == MINE
    assert llama(**second).model.layers[1].mlp.act_fn.spec.gradient == "tanh(x)"
    assert llama(**first).model.layers[1].mlp.act_fn.spec == MINE
    alive = llama(**ig.models.config_fields(other))
    assert alive.model.layers[0].mlp.act_fn.spec == other
    catalogue = ig.activation("xielu").spec
    assert llama(hidden_act="integrand/xielu").model.layers[0].mlp.act_fn.spec == catalogue
    # no model is being built
    assert transformers.activations.ACT2FN["integrand/xielu"].spec == catalogue


def test_a_config_that_fails_leaves_the_next_model_alone():
    broken = ig.models.config_fields(MINE) | {"integrand": {"mine": "name = 3"}}
    with pytest.raises(ig.SpecError, match="name"):
        llama(**broken)
    with pytest.raises(ig.SpecError, match="no activation is named 'mine'"):
        llama(hidden_act="integrand/mine")
    llama(hidden_act="integrand/relu2")


class Composite(transformers.PreTrainedConfig):
    """A config of parts, as those of models that hear or see."""

    model_type = "composite"
    audio_config: transformers.LlamaConfig | None = None


class Hearing(transformers.PreTrainedModel):
    """Its projector is built by the whole model and named by the config of a part."""

    config_class = Composite

    def __init__(self, config, fails=False):
        super().__init__(config)
        self.act = transformers.activations.ACT2FN[config.audio_config.hidden_act]
        self.tower = transformers.LlamaModel(config.audio_config)
        self.late = transformers.activations.ACT2FN[config.audio_config.hidden_act]
        if fails:
            raise RuntimeError
        # and it never calls post_init


def test_a_declaration_in_a_sub_config_is_found():
    for fields in (
        ig.models.config_fields(MINE),
        ig.models.config_fields(ig.Spec(name="xielu", gradient="2*x")),
    ):
        audio = transformers.LlamaConfig(**SMALL, **fields)
        model = Hearing(Composite(audio_config=audio))
        (text,) = fields["integrand"].values()
        for act in (model.act, model.late, model.tower.layers[0].mlp.act_fn):
            assert act.spec == ig.spec.from_toml(text)


def test_one_name_of_two_functions_is_refused():
    audio = transformers.LlamaConfig(**SMALL, **ig.models.config_fields(MINE))
    other = ig.models.config_fields(ig.Spec(name="mine", gradient="2*x"))["integrand"]
    with pytest.raises(ig.SpecError, match="'mine' must mean one function"):
        Hearing(Composite(audio_config=audio, integrand=other))
    same = ig.models.config_fields(MINE)["integrand"]
    assert Hearing(Composite(audio_config=audio, integrand=same)).act.spec == MINE


def test_a_model_that_never_ends_its_construction_leaves_no_declaration():
    fields = ig.models.config_fields(ig.Spec(name="xielu", gradient="2*x"))
    config = Composite(audio_config=transformers.LlamaConfig(**SMALL, **fields))
    kept = Hearing(config)
    catalogue = ig.activation("xielu").spec
    assert transformers.activations.ACT2FN["integrand/xielu"].spec == catalogue
    with pytest.raises(RuntimeError) as error:  # which keeps the model alive
        Hearing(config, fails=True)
    assert transformers.activations.ACT2FN["integrand/xielu"].spec == catalogue
    assert kept.act.spec.gradient == "2*x"
    del error


def test_an_unknown_name_is_an_error_with_the_close_ones():
    with pytest.raises(ig.SpecError, match=r"named 'xeilu'; did you mean .*xielu"):
        llama(hidden_act="integrand/xeilu")
    with pytest.raises(KeyError, match="xeilu"):
        llama(hidden_act="xeilu")
    with pytest.raises(ig.SpecError, match="must say 'integrand/sine'"):
        llama(hidden_act="integrand/siren")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gradient = '__import__(\"os\").abort()'\nname = 'mine'", "__import__"),
        (
            "name = 'mine'\ngradient = ",
            "'mine' under 'integrand' in the model's config is not TOML",
        ),
        ("name = 'theirs'\ngradient = 'x'", "must declare that name"),
        (["a list"], "must be the TOML text of a spec, got list"),
    ],
)
def test_a_strangers_declaration_is_parsed_and_never_run(text, words):
    with pytest.raises(ig.SpecError, match=words):
        llama(hidden_act="integrand/mine", integrand={"mine": text})


def test_a_field_of_another_kind_is_refused():
    with pytest.raises(ig.SpecError, match="must map names to TOML, got list"):
        llama(hidden_act="integrand/relu2", integrand=["relu2"])


def test_gpt2_names_its_activation_otherwise(tmp_path):
    fields = ig.models.config_fields("xielu", field="activation_function")
    shape = {"vocab_size": 32, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **special, **fields))
    trained(model.eval()).save_pretrained(tmp_path)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))


def python(code, *arguments):
    source = os.pathsep.join([str(Path(ig.__file__).parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_process_reads_it_if_it_imports_integrand_and_else_names_it(tmp_path):
    model = trained(llama(**ig.models.config_fields(MINE)))
    model.save_pretrained(tmp_path)
    torch.save(logits(model), tmp_path / "logits.pt")
    # transformers first: its tables exist when integrand comes
    code = """if True:
        import sys, torch
        from transformers import LlamaForCausalLM
        path = sys.argv[1]
        try:
            LlamaForCausalLM.from_pretrained(path)
        except KeyError as error:
            print("without:", error)
        import integrand
        model = LlamaForCausalLM.from_pretrained(path)
        with torch.no_grad():
            found = model(torch.arange(20)[None] % 32).logits
        print("with:", torch.equal(found, torch.load(path + "/logits.pt", weights_only=True)))
        """
    done = python(code, tmp_path)
    assert "without: 'integrand/mine'" in done.stdout, done.stderr
    assert "with: True" in done.stdout, done.stderr


def test_importing_integrand_imports_neither_transformers_nor_sympy():
    code = "import sys, integrand; print(sorted({'transformers', 'sympy'} & set(sys.modules)))"
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_missing_parameters_are_an_error_that_names_them(tmp_path):
    llama().save_pretrained(tmp_path)
    key = r"model\.layers\.0\.mlp\.act_fn\.alpha_p"
    with pytest.raises(ig.DataError, match=key):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path, hidden_act="integrand/xielu")
    # a config edited by hand is no request for untrained parameters
    config = json.loads((tmp_path / "config.json").read_text()) | {"hidden_act": "integrand/xielu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ig.DataError, match=key):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_activations_of_a_llama_checkpoint_start_as_declared(tmp_path, dtype, caplog):
    plain = llama()
    plain.save_pretrained(tmp_path)
    with ig.models.new_activations():
        model = transformers.LlamaForCausalLM.from_pretrained(
            tmp_path, hidden_act="integrand/xielu", dtype=dtype
        )
    assert "they start at their declared values" in caplog.text
    declared = ig.activation("xielu").module().state_dict()
    for layer in model.model.layers:
        found = layer.mlp.act_fn.state_dict()
        assert all(torch.equal(found[name], declared[name]) for name in declared)
        assert layer.mlp.up_proj.weight.dtype == dtype
    weight = plain.model.layers[0].mlp.up_proj.weight.to(dtype)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, weight)


def test_a_llama_checkpoint_takes_a_new_spec_while_it_loads(tmp_path):
    llama().save_pretrained(tmp_path / "plain")
    with ig.models.new_activations():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "plain", **ig.models.config_fields(MINE)
        )
    trained(model).save_pretrained(tmp_path / "mine")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    assert again.model.layers[1].mlp.act_fn.spec == MINE
    assert torch.equal(logits(again), logits(model))


def test_a_checkpoint_without_some_alphas_keeps_the_others(tmp_path, caplog):
    model = trained(llama(hidden_act="integrand/xielu"))
    state = model.state_dict()
    lost = "model.layers.1.mlp.act_fn.alpha_n"
    del state[lost]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ig.DataError, match=r"lacks model\.layers\.1\.mlp\.act_fn\.alpha_n;"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    with ig.models.new_activations():
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert torch.equal(again[lost], ig.activation("xielu").module().alpha_n.detach())


def test_a_new_model_starts_as_declared(caplog):
    config = transformers.LlamaConfig(**SMALL, hidden_act="integrand/xielu", dtype=torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_config(config)
    declared = ig.activation("xielu").module().state_dict()
    found = model.model.layers[1].mlp.act_fn.state_dict()
    assert all(torch.equal(found[name], declared[name]) for name in declared)
    assert "lacks" not in caplog.text
