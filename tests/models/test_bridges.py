"""xIELU's parameters read from, converted between, and written to the formats that exist."""

import math

import pytest
import torch

from integrand.errors import DataError
from integrand.models import XieluParameters, read_parameters, to_tensors, write_parameters
from integrand.models.checkpoints import FORMATS

SOFTPLUS = [name for name, f in FORMATS.items() if f.parametrisation == "softplus"]
# what a published model is reported to hold in layer 0, an initial layer, and small values
RAW_P, RAW_N = [166.0, 0.203125, -9.5, 2.5], [40.75, -1.046875, -13.0, 0.5]
UNIT = {torch.bfloat16: 2**-8, torch.float32: 2**-24, torch.float16: 2**-11}


def apertus(dtype=torch.bfloat16, layers=4):
    """Keys and shapes of transformers' Apertus, some of its other tensors included."""
    state = {"model.embed_tokens.weight": torch.zeros(8, 4), "lm_head.weight": torch.zeros(8, 4)}
    for n in range(layers):
        at = f"model.layers.{n}.mlp"
        state[f"{at}.up_proj.weight"] = torch.zeros(8, 4)
        state[f"{at}.act_fn.alpha_p"] = torch.tensor([RAW_P[n]], dtype=dtype)
        state[f"{at}.act_fn.alpha_n"] = torch.tensor([RAW_N[n]], dtype=dtype)
        state[f"{at}.act_fn.beta"] = torch.tensor(0.5, dtype=dtype)
        state[f"{at}.act_fn.eps"] = torch.tensor(-1e-6, dtype=dtype)
    return state


def megatron_abs(experts=1):
    """Raw parameters of a fork with |a| and a trainable beta; signs are free there."""
    state = {}
    for n, (p, a, b) in enumerate([(0.8, 0.3, 0.5), (-2.0, 1e-3, -0.7)]):
        at = f"decoder.layers.{n}.mlp.{'experts.' if experts > 1 else ''}activation_func"
        state[f"{at}.alpha_p"] = p * torch.arange(1.0, experts + 1)
        state[f"{at}.alpha_n"] = a * torch.arange(1.0, experts + 1)
        state[f"{at}.beta"] = torch.full((experts,), b)
    return state


def only_activation(state):
    return {k: v for k, v in state.items() if "act_fn" in k or "activation_func" in k}


def assert_same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("through", SOFTPLUS)
def test_softplus_formats_hold_the_same_bits(through, dtype):
    start = apertus(dtype)
    there = to_tensors(read_parameters(start), through)
    back = to_tensors(read_parameters(there, through), "transformers")
    assert_same_bits(back, only_activation(start))


@pytest.mark.parametrize("experts", [1, 4])
def test_abs_formats_keep_their_bits_and_signs(experts):
    start = megatron_abs(experts)
    name = "megatron-abs-experts" if experts > 1 else "megatron-abs"
    assert_same_bits(to_tensors(read_parameters(start), name), start)


def test_values_are_those_of_the_published_formulas():
    first, *_ = read_parameters(apertus()).values()
    # softplus(166) = 166 and softplus(40.75) = 40.75 to fp64's last digits
    assert first["alpha_p"].item() == 166.0
    assert first["alpha_n"].item() == 41.25
    # torch's own softplus is the identity here, which is off by 1e-11
    wide = apertus(torch.float64)
    wide["model.layers.0.mlp.act_fn.alpha_p"] = torch.tensor([22.0], dtype=torch.float64)
    exact = 22.0 + math.log1p(math.exp(-22.0))
    assert read_parameters(wide).values()[0]["alpha_p"].item() == pytest.approx(exact, rel=1e-15)
    second = read_parameters(megatron_abs()).values()[1]
    assert second["alpha_p"].item() == 2.0
    assert second["alpha_n"].item() == pytest.approx(0.701, rel=1e-7)
    assert second["beta"].item() == pytest.approx(0.7, rel=1e-7)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_softplus_to_abs_rounds_each_part_once(dtype):
    start = read_parameters(apertus(dtype))
    made = start.stored_as("abs")
    for layer in range(4):
        for name in ("alpha_p", "alpha_n"):
            exact, got = start.parts(layer)[name], made.parts(layer)[name]
            assert made.raw[layer][name].dtype == dtype
            # 2**-25 is half the spacing of fp16's subnormals
            slack = 2**-25 if dtype is torch.float16 else 0.0
            assert abs(got / exact - 1).item() <= UNIT[dtype] + slack / exact.item()


@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_abs_to_softplus_is_within_the_stated_rounding(dtype):
    values = [1e-6, 1e-3, 0.3, 0.8, 17.0, 166.0, 1e4]
    start = XieluParameters.from_values(
        values, [0.5 + v for v in values], parametrisation="abs", dtype=torch.float64
    )
    made = start.stored_as("softplus", dtype)
    for layer, part in enumerate(start.parts(n) for n in range(len(values))):
        for name in ("alpha_p", "alpha_n"):
            raw = abs(made.raw[layer][name].double().item())
            # raw is off by u |raw|, so its part by a factor exp(u max(1, |raw|)) at most
            allowed = math.expm1(UNIT[dtype] * max(1.0, raw) * 1.01)
            assert abs(made.parts(layer)[name] / part[name] - 1).item() <= allowed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gguf_holds_the_same_bits(dtype, tmp_path):
    start = apertus(dtype)
    write_parameters(read_parameters(start), tmp_path / "a.gguf")
    read = read_parameters(tmp_path / "a.gguf")
    assert_same_bits(to_tensors(read, "transformers", dtype), only_activation(start))


def test_gguf_keys_are_those_of_the_gguf_package_and_raw(tmp_path):
    import gguf

    write_parameters(read_parameters(apertus()), tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.get_field(gguf.Keys.xIELU.ALPHA_P).contents() == RAW_P
    assert reader.get_field(gguf.Keys.xIELU.ALPHA_N).contents() == RAW_N
    assert reader.get_field(gguf.Keys.xIELU.BETA).contents() == [0.5] * 4


def test_gguf_from_the_package_itself_is_read_also_where_one_number_serves_all(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "apertus")
    writer.add_block_count(3)
    writer.add_xielu_alpha_p([1.0, 2.0, 3.0])
    writer.add_xielu_alpha_n([-1.0, 0.0, 1.0])
    writer.add_float32("xielu.beta", 0.5)
    writer.add_float32("xielu.eps", -1e-6)
    write_and_close(writer)
    read = read_parameters(tmp_path / "b.gguf")
    assert [r["alpha_n"].item() for r in read.raw] == [-1.0, 0.0, 1.0]
    assert [r["beta"].item() for r in read.raw] == [0.5] * 3


def write_and_close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@pytest.mark.parametrize("lost", ["xielu.alpha_n", "two layers"])
def test_incomplete_gguf_is_refused(lost, tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "apertus")
    writer.add_block_count(4)
    for name in ("alpha_p", "alpha_n", "beta", "eps"):
        if f"xielu.{name}" != lost:
            writer.add_array(f"xielu.{name}", [0.5] * (4 if lost.startswith("xielu") else 2))
    write_and_close(writer)
    with pytest.raises(DataError, match=r"xielu\.alpha_n"):
        read_parameters(tmp_path / "c.gguf")


@pytest.mark.parametrize("cut", [2, 20, 60, 150, -40])
def test_damaged_gguf_is_one_sentence(cut, tmp_path):
    write_parameters(read_parameters(apertus()), tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes((tmp_path / "a.gguf").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a\.gguf is (not|a damaged)"):
        read_parameters(tmp_path / "a.gguf")


def test_real_apertus_weights_are_read_and_load_again():
    transformers = pytest.importorskip("transformers")
    config = transformers.ApertusConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, dtype="bfloat16", pad_token_id=0,
    )  # fmt: skip
    model = transformers.ApertusForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        model.model.layers[1].mlp.act_fn.alpha_p.fill_(166.0)
    read = read_parameters(model.state_dict())
    assert read.raw[1]["alpha_p"].item() == 166.0
    assert read.values()[0]["alpha_n"].item() == pytest.approx(0.8, rel=2**-8)
    made = to_tensors(read, "transformers")
    result = model.load_state_dict(made, strict=False)
    assert not result.unexpected_keys
    assert not any("act_fn" in key for key in result.missing_keys)
    assert_same_bits(made, only_activation(model.state_dict()))


def test_own_decoder_in_apertus_shape_is_read():
    import integrand as ig
    from integrand.models import Decoder, DecoderConfig

    config = DecoderConfig(
        vocab_size=16,
        d_model=8,
        d_hidden=8,
        layers=2,
        heads=2,
        kv_heads=1,
        gated=False,
        layout="apertus",
        qk_norm=True,
    )
    state = Decoder(config, ig.activation("xielu")).state_dict()
    values = read_parameters(state).values()
    assert [v["alpha_p"].item() for v in values] == pytest.approx([0.8, 0.8])


def test_safetensors_folder_is_read_in_its_dtype(tmp_path):
    start = read_parameters(apertus())
    write_parameters(start, tmp_path / "model.safetensors", "megatron-stacked")
    back = read_parameters(tmp_path)
    assert_same_bits(to_tensors(back, "transformers"), only_activation(apertus()))


MISSING = {
    "one alpha": lambda s: s.pop("model.layers.2.mlp.act_fn.alpha_n"),
    "a whole layer": lambda s: [
        s.pop(f"model.layers.2.mlp.act_fn.{n}") for n in ("alpha_p", "alpha_n", "beta", "eps")
    ],
    "one beta": lambda s: s.pop("model.layers.2.mlp.act_fn.beta"),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_parameters_are_named_and_never_filled_in(case):
    state = apertus()
    MISSING[case](state)
    with pytest.raises(DataError, match=r"missing: .*model\.layers\.2\.mlp\.act_fn\."):
        read_parameters(state)


def test_converted_checkpoint_without_any_alphas_is_refused():
    state = {k: v for k, v in apertus().items() if "act_fn" not in k}
    with pytest.raises(DataError, match=r"no xIELU parameters.*act_fn\.alpha_p"):
        read_parameters(state)
    with pytest.raises(DataError, match="no key is like"):
        read_parameters(state, "transformers")


def test_beta_and_eps_are_the_codes_constants_only_where_no_layer_stores_them():
    state = {k: v for k, v in apertus().items() if not k.endswith((".beta", ".eps"))}
    assert_same_bits(to_tensors(read_parameters(state), "transformers"), only_activation(apertus()))


def stacked(rows, other):
    return {
        "decoder.layers.self_attention.linear_proj.weight": torch.zeros(other, 4, 4),
        "decoder.layers.mlp.activation_func.alpha_p": torch.ones(rows),
        "decoder.layers.mlp.activation_func.alpha_n": torch.ones(rows),
    }


WRONG = {
    "unknown field": ({**apertus(), "model.layers.0.mlp.act_fn.gamma": torch.ones(1)}, None),
    "wrong shape": (
        {**apertus(), "model.layers.0.mlp.act_fn.alpha_p": torch.ones(3)},
        r"must have shape \(1,\), got \(3,\)",
    ),
    "not finite": (
        {**apertus(), "model.layers.0.mlp.act_fn.alpha_p": torch.tensor([math.nan])},
        "finite",
    ),
    "half of the layers": (stacked((2, 1), 4), "one length"),
    "half of the layers, old": (stacked((2,), 4), "one length"),
    "two stacks": (
        {**apertus(), **{f"draft.{k}": v for k, v in apertus().items()}},
        "one stack of layers",
    ),
    "initial values where raw parameters belong": (
        {
            k: torch.full_like(v, 0.8) if "alpha" in k else v
            for k, v in apertus(torch.float32).items()
        },
        "initial VALUES",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_checkpoints_are_refused(case):
    state, said = WRONG[case]
    with pytest.raises(DataError, match=said or "gamma"):
        read_parameters(state)


def test_abs_checkpoint_is_not_taken_for_softplus():
    assert read_parameters(megatron_abs()).parametrisation == "abs"
    with pytest.raises(DataError, match=r"got '.*beta'"):
        read_parameters(megatron_abs(), "megatron")


def test_a_format_refuses_what_it_has_no_place_for(tmp_path):
    trained_beta = read_parameters(megatron_abs())
    with pytest.raises(DataError, match="no place for beta"):
        to_tensors(trained_beta, "megatron")
    # transformers stores beta with every layer
    made = to_tensors(trained_beta, "transformers")
    assert made["model.layers.1.mlp.act_fn.beta"].item() == pytest.approx(0.7)
    experts = read_parameters(megatron_abs(4))
    with pytest.raises(DataError, match="one alpha_p per layer, got 4"):
        to_tensors(experts, "transformers")
    with pytest.raises(DataError, match="per expert"):
        write_parameters(experts, tmp_path / "a.gguf")
    with pytest.raises(DataError, match=r"\.safetensors or \.gguf"):
        write_parameters(trained_beta, tmp_path / "a.bin")
    with pytest.raises(DataError, match="a format of named tensors is one of"):
        to_tensors(trained_beta, "hf")


KINDS = {
    "integers": (torch.tensor([1]), "float tensor, got int64"),
    "bools": (torch.tensor([True]), "float tensor, got bool"),
    "complex numbers": (torch.tensor([1j]), "float tensor, got complex64"),
    "meta": (torch.empty(1, device="meta"), "meta device"),
    "other lengths": (torch.ones(3), "one length"),
    "nothing": (torch.ones(0), "one length"),
}


@pytest.mark.parametrize("field", ["alpha_n", "beta"])
@pytest.mark.parametrize("case", KINDS)
def test_what_are_no_real_numbers_is_neither_read_nor_written(case, field, tmp_path):
    wrong, said = KINDS[case]
    state = megatron_abs(2)
    good = read_parameters(state)
    state[f"decoder.layers.1.mlp.experts.activation_func.{field}"] = wrong
    with pytest.raises(DataError, match=said if wrong.numel() else "must have shape"):
        read_parameters(state)
    made = XieluParameters((good.raw[0], {**good.raw[1], field: wrong}), "abs")
    with pytest.raises(DataError, match=said):
        to_tensors(made, "megatron-abs-experts")
    with pytest.raises(DataError, match=said):
        write_parameters(made, tmp_path / "a.gguf")


def test_layers_without_a_parameter_are_not_written():
    good = read_parameters(megatron_abs())
    with pytest.raises(DataError, match="at least one layer"):
        to_tensors(XieluParameters((), "softplus"), "megatron-stacked")
    raw = {name: t for name, t in good.raw[0].items() if name != "eps"}
    with pytest.raises(DataError, match="needs raw parameters eps"):
        to_tensors(XieluParameters((raw,), "abs"), "megatron-abs")


def test_another_eps_is_written_only_where_it_is_stored():
    for dtype, eps in ((torch.float32, -1e-5), (torch.bfloat16, -1.1e-6), (torch.float32, 0.0)):
        held = XieluParameters.from_values([0.9], [0.8], eps=eps, dtype=dtype)
        with pytest.raises(DataError, match="no place for eps: its code takes -1e-06"):
            to_tensors(held, "megatron")
        made = to_tensors(held, "transformers")
        assert made["model.layers.0.mlp.act_fn.eps"].item() == torch.tensor(eps).to(dtype).item()
    # a half type rounds the constant, which is no other one
    rounded = XieluParameters.from_values([0.9], [0.8], dtype=torch.bfloat16)
    assert set(to_tensors(rounded, "megatron")) == {
        f"decoder.layers.0.mlp.activation_func.{name}" for name in ("alpha_p", "alpha_n")
    }


def test_softplus_cannot_reach_zero_and_says_so():
    state = megatron_abs()
    # what Megatron's states hold beside tensors
    state["decoder.layers.0._extra_state"] = None
    state["decoder.layers.0.mlp.activation_func.alpha_p"] = torch.zeros(1)
    with pytest.raises(DataError, match="softplus reaches only alpha_p > 0"):
        to_tensors(read_parameters(state), "transformers")


def test_fp64_does_not_become_gguf_without_being_asked(tmp_path):
    start = XieluParameters.from_values([0.8], [0.8], dtype=torch.float64)
    with pytest.raises(DataError, match=r"dtype=torch\.float32"):
        write_parameters(start, tmp_path / "a.gguf")
    write_parameters(start, tmp_path / "a.gguf", dtype=torch.float32)


@pytest.mark.parametrize("values", [([166.0], [-1.05]), ([-0.2], [1.0]), ([0.8], [0.5])])
def test_raw_parameters_are_not_taken_for_values(values):
    with pytest.raises(DataError, match="raw parameters are no values"):
        XieluParameters.from_values(*values)
