"""`integrand inspect`: what it finds, what it reads, what it flags, what it says to bad input."""

import importlib.util
import json
import math
import re
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import integrand as ig
from integrand.cli import main
from integrand.errors import DataError
from integrand.models import inspect_checkpoint, read_parameters, write_parameters
from integrand.models.extremes import far, fp16_reach, step
from integrand.spec import to_toml

_place = importlib.util.spec_from_file_location("hub_stand_in", Path(__file__).parent / "hub.py")
stand_in = importlib.util.module_from_spec(_place)
sys.modules[_place.name] = stand_in
_place.loader.exec_module(stand_in)

RAW = [(166.0, 40.75), (0.203125, -1.046875), (0.5, -1.0), (0.75, -0.5), (1.0, -2.0)]


def apertus(weights=1, dtype=torch.bfloat16):
    state = {}
    for n, (p, a) in enumerate(RAW):
        at = f"model.layers.{n}.mlp"
        state[f"{at}.up_proj.weight"] = torch.full((weights, 64), n, dtype=dtype)
        state[f"{at}.act_fn.alpha_p"] = torch.tensor([p], dtype=dtype)
        state[f"{at}.act_fn.alpha_n"] = torch.tensor([a], dtype=dtype)
        state[f"{at}.act_fn.beta"] = torch.tensor(0.5, dtype=dtype)
        state[f"{at}.act_fn.eps"] = torch.tensor(-1e-6, dtype=dtype)
    return state


def sharded(folder, state, shards=3):
    names = sorted(state)
    where = {name: f"model-{i % shards + 1:05}.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({n: state[n] for n in names if where[n] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


@pytest.fixture
def counted(monkeypatch):
    """Bytes that files opened through pathlib have given."""
    count = {"bytes": 0}
    original = Path.open

    class Counted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def read(self, size=-1):
            data = self.file.read(size)
            count["bytes"] += len(data)
            return data

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(self, mode="r", *args, **kwargs):
        file = original(self, mode, *args, **kwargs)
        return Counted(file) if mode == "rb" else file

    monkeypatch.setattr(Path, "open", opened)
    return count


@pytest.mark.parametrize("shape", ["file", "folder", "shards"])
def test_every_layout_gives_the_same_layers(shape, tmp_path):
    if shape == "shards":
        sharded(tmp_path, apertus())
    else:
        save_file(apertus(), tmp_path / "model.safetensors")
    found = inspect_checkpoint(tmp_path / ("model.safetensors" if shape == "file" else ""))
    assert found.format == "transformers" and found.activation.name == "xielu"
    assert [la.module for la in found.layers] == [f"model.layers.{n}.mlp.act_fn" for n in range(5)]
    assert [tuple(t.item() for t in la.raw.values()) for la in found.layers] == RAW
    first = found.layers[0].values
    assert (first["alpha_p"].item(), first["alpha_n"].item()) == (166.0, 41.25)


def test_only_headers_and_activation_tensors_are_read_of_a_checkpoint_larger_than_memory(
    tmp_path, counted
):
    """64 GiB that lie on no disk: a file with a hole, which reading whole would take minutes."""
    huge = 1 << 36
    table = {"model.layers.0.mlp.up_proj.weight": ("BF16", [huge // 2], 0, huge)}
    small = b""
    for name, number in (("alpha_p", 166.0), ("alpha_n", 40.75)):
        start = huge + len(small)
        table[f"model.layers.0.mlp.act_fn.{name}"] = ("F32", [1], start, start + 4)
        small += struct.pack("<f", number)
    header = json.dumps(
        {n: {"dtype": d, "shape": s, "data_offsets": [a, b]} for n, (d, s, a, b) in table.items()}
    ).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.seek(8 + len(header) + huge)
        file.write(small)
    found = inspect_checkpoint(tmp_path)
    assert found.layers[0].values["alpha_n"].item() == 41.25
    assert counted["bytes"] == found.read_bytes == 8 + len(header) + len(small)
    assert found.total_bytes == 8 + len(header) + huge + len(small)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A function that serves tmp_path as the repository org/tiny on a stand-in for the hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def at(endpoint):
        url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)

    return at


def test_hub_is_asked_for_the_activation_tensors_alone(tmp_path, remote):
    sharded(tmp_path, apertus(weights=2000))
    (tmp_path / "config.json").write_text('{"hidden_act": "xielu"}')
    with stand_in.hub(tmp_path) as served:
        remote(served.endpoint)
        found = inspect_checkpoint("org/tiny")
    assert [tuple(t.item() for t in la.raw.values()) for la in found.layers] == RAW
    assert served.bytes_of_files == found.read_bytes < found.total_bytes / 100
    weights = [
        (name, first, last) for name, first, last in served.ranges if last - first > 64 * 2000
    ]
    assert not weights


@pytest.mark.parametrize(
    ("refusal", "said"),
    [((403, "GatedRepo"), "gated"), ((401, "RepoNotFound"), "no model"), (None, "no model")],
)
def test_a_hub_that_refuses_is_one_sentence(refusal, said, tmp_path, remote):
    save_file(apertus(), tmp_path / "model.safetensors")
    with stand_in.hub(tmp_path, refusal) as served:
        remote(served.endpoint)
        where = "org/tiny" if refusal else "org/other"
        with pytest.raises(DataError, match=rf"^there is no path '{where}', and .*hub.*{said}"):
            inspect_checkpoint(where)


def test_a_hub_that_does_not_answer_is_one_sentence(remote):
    remote("http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"^there is no path 'org/tiny', and the hub did not answer for"
    ):
        inspect_checkpoint("org/tiny")


def test_repository_without_safetensors_says_so(tmp_path, remote):
    (tmp_path / "pytorch_model.bin").write_bytes(b"...")
    with stand_in.hub(tmp_path) as served:
        remote(served.endpoint)
        with pytest.raises(DataError, match=r"must hold model\.safetensors"):
            inspect_checkpoint("org/tiny")


def _write(folder, **files):
    for name, content in files.items():
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name.replace("_", ".", 1)).write_bytes(content)


def _truncated(folder, cut):
    save_file(apertus(), folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:cut])


def _lost_shard(folder):
    sharded(folder, apertus())
    (folder / "model-00002.safetensors").unlink()


def _index(folder, shard):
    weights = {"weight_map": {"x": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))


def _llama(folder):
    save_file({"model.layers.0.mlp.up_proj.weight": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"hidden_act": "silu"}')


BAD = {
    "no checkpoint": (lambda f: None, "must hold model.safetensors"),
    "text": (lambda f: _write(f, model_safetensors=b"not a checkpoint at all"), "not a safeten"),
    "empty": (lambda f: _write(f, model_safetensors=b""), "not a safetensors file"),
    "header cut off": (lambda f: _truncated(f, 100), "truncated"),
    "tensors cut off": (lambda f: _truncated(f, -4), "truncated"),
    "header is no table": (
        lambda f: _write(f, model_safetensors=struct.pack("<Q", 2) + b"[]"), "no table",
    ),
    "missing shard": (_lost_shard, "lacks the shard model-00002.safetensors"),
    "shard outside its folder": (lambda f: _index(f, "../secret.safetensors"), "outside"),
    "index without a map": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"), "weight_map",
    ),
    "no activation parameters": (_llama, "config names 'silu'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints_are_status_2_and_one_sentence(case, tmp_path, capsys):
    make, quoted = BAD[case]
    make(tmp_path)
    assert main(["inspect", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and quoted in said.err
    assert not (tmp_path / "out.json").exists()


def _f32(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def _raw(folder, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def _table(*names, **first):
    """A header of one fp32 number per name; `first` replaces fields of the first."""
    table = {
        n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, n in enumerate(names)
    }
    table[names[0]].update(first)
    return table


AT = "model.layers.0.mlp.act_fn"
ALPHAS = (f"{AT}.alpha_p", f"{AT}.alpha_n")


def _hostile(folder, *more, numbers=(1.0, -1.0), **first):
    table = _table(*ALPHAS, *more, **first)
    _raw(folder, table, _f32(*numbers, *[0.0] * (len(table) - len(numbers))))


def _config(folder, text):
    _hostile(folder)
    (folder / "config.json").write_text(text)


def _negative_beta(folder):
    _raw(folder, _table(*ALPHAS, f"{AT}.beta"), _f32(1.0, -1.0, -5.0))


def _hole(folder, shape, size):
    """An abs checkpoint whose first tensor is a hole of this many bytes."""
    table = {
        f"decoder.layers.0.mlp.activation_func.{n}": {
            "dtype": "F32", "shape": shape, "data_offsets": [i * size, (i + 1) * size],
        }
        for i, n in enumerate(("alpha_p", "alpha_n", "beta"))
    }  # fmt: skip
    _raw(folder, table)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(3 * size, 2)
        file.truncate()


def _shapes_that_differ(folder):
    state = mine(1, shape=(1, 8))
    state["model.layers.0.mlp.act_fn.k"] = torch.ones(8, 1)
    declared(folder, {n: t for n, t in state.items() if ".10." not in n})


HOSTILE = {
    "a billion layers": (
        lambda f: _hostile(f, "model.layers.9999999999.mlp.up_proj.weight"), "six digits",
    ),
    "a million layers": (
        lambda f: _hostile(f, "model.layers.999999.mlp.up_proj.weight"), "1999994 more",
    ),
    "5000 digits": (
        lambda f: _hostile(f, f"model.layers.{'1' * 900}.mlp.act_fn.alpha_p"), "six digits",
    ),
    "a name of 5000 digits": (
        lambda f: _hostile(f, f"model.layers.{'1' * 5000}.mlp.act_fn.alpha_p"), "1000 printable",
    ),
    "layer 00": (lambda f: _hostile(f, *(n.replace(".0.", ".00.") for n in ALPHAS)), "'00'"),
    "a name of two lines": (lambda f: _hostile(f, "a\nb"), "printable"),
    "half a character": (lambda f: _hostile(f, "a\ud800"), "printable"),
    "shape of true": (lambda f: _hostile(f, shape=[True]), "shape of integers"),
    "shape of 1.0": (lambda f: _hostile(f, shape=[1.0]), "shape of integers"),
    "shape of -1": (lambda f: _hostile(f, shape=[-1]), "shape of integers"),
    "shape is text": (lambda f: _hostile(f, shape="1"), "shape of integers"),
    "shape beyond 64 bits": (lambda f: _hostile(f, shape=[10**4000]), "shape of integers"),
    "dtype is a list": (lambda f: _hostile(f, dtype=["F32"]), "needs a dtype"),
    "dtype is unknown": (lambda f: _hostile(f, dtype="F" * 5000), "float tensor"),
    "dtype of integers": (lambda f: _hostile(f, dtype="I32"), "float tensor"),
    "offsets at infinity": (lambda f: _hostile(f, data_offsets=[0, math.inf]), "data_offsets"),
    "offsets in reverse": (lambda f: _hostile(f, data_offsets=[4, 0]), "data_offsets"),
    "one offset": (lambda f: _hostile(f, data_offsets=[0]), "data_offsets"),
    "offsets before the data": (lambda f: _hostile(f, data_offsets=[-8, -4]), "data_offsets"),
    "overlapping tensors": (lambda f: _hostile(f, data_offsets=[2, 6]), "overlap"),
    "a tensor is no table": (lambda f: _raw(f, {"a": 3}), "needs a dtype"),
    "deep header": (lambda f: _raw(f, b'{"a":' + b"[" * 200000), "no table"),
    "no numbers": (
        lambda f: declared(f, {f"layers.0.act.{n}": torch.ones(0) for n in "akb"}),
        "must hold numbers",
    ),
    "negative beta": (_negative_beta, "beta of layer 0 must not be negative"),
    "tensors of gigabytes": (lambda f: _hole(f, [1 << 34], 1 << 36), "must take at most"),
    "parameters of other shapes": (_shapes_that_differ, "one shape"),
    "deep config": (lambda f: _config(f, '{"a":' + "[" * 200000), "is not JSON"),
    "long name of a shard": (lambda f: _index(f, "a" * 5000), "no shard's file"),
    "shard of two lines": (lambda f: _index(f, "a\nb"), "no shard's file"),
    "deep declaration": (
        lambda f: _config(
            f, json.dumps({"integrand": {"mine": "a = " + "[" * 200000}})
        ), "nested too deeply",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_checkpoints_are_status_2_and_one_sentence(case, tmp_path, capsys):
    make, quoted = HOSTILE[case]
    make(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and quoted in said.err
    assert len(said.err) < 1000


def test_a_config_of_parts_within_parts_is_read(tmp_path):
    depth = 900
    _config(tmp_path, '{"a_config":' * depth + "{}" + "}" * depth)
    assert len(inspect_checkpoint(tmp_path).layers) == 1


def test_an_empty_table_of_declarations_declares_nothing(tmp_path):
    _config(tmp_path, '{"integrand": {}}')
    assert inspect_checkpoint(tmp_path).format == "transformers"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_parameters_are_inspected(dtype, tmp_path, capsys):
    state = {k: v for k, v in apertus(dtype=torch.float32).items() if "act_fn.alpha" in k}
    state = {k: v.to(dtype) for k, v in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    first = inspect_checkpoint(tmp_path).layers[0]
    assert first.values["alpha_p"].item() == state[f"{AT}.alpha_p"].double().item()
    assert step(first.raw["alpha_p"]) == (16.0 if dtype is torch.float8_e4m3fn else 32.0)
    state[f"{AT}.alpha_p"] = torch.tensor([math.nan]).to(dtype)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="must be finite"):
        inspect_checkpoint(tmp_path)


def test_modules_of_thousands_of_digits_are_ordered(tmp_path):
    layer = ig.derive(SPEC).module()
    numbers = ["2", "1" * 900, "0", "10"]
    state = {f"b.{n}.act.{k}": t.clone() for n in numbers for k, t in layer.state_dict().items()}
    declared(tmp_path, state)
    found = [la.module.split(".")[1] for la in inspect_checkpoint(tmp_path).layers]
    assert found == ["0", "2", "10", "1" * 900]


@pytest.mark.parametrize("where", ["nowhere", "./a/b", "a/b.safetensors", "a/b/c"])
def test_neither_path_nor_hub_id_is_status_2(where, capsys):
    assert main(["inspect", where]) == 2
    assert "there is no such path" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["", " ", "a" * 5000, "a\0b", "~nobody-here/a"])
def test_what_can_be_no_path_is_status_2_and_one_sentence(where, capsys, tmp_path, monkeypatch):
    # a checkpoint in the present folder is not what an empty name means
    save_file(apertus(), tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", where]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 500


@pytest.mark.parametrize("read", [inspect_checkpoint, read_parameters])
def test_nothing_is_no_checkpoint(read):
    with pytest.raises(DataError, match=r"must be a file, a folder or a hub id .* got NoneType"):
        read(None)


def test_read_parameters_of_a_declared_activation_points_to_inspect(tmp_path):
    declared(tmp_path, mine())
    with pytest.raises(DataError, match=r"'integrand/mine'.*`integrand inspect .*from_pretrained"):
        read_parameters(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match="no xIELU parameters") as refused:
        read_parameters(tmp_path)
    keys = re.findall(r"[\w.]*alpha_p", str(refused.value))
    assert len(keys) == len({*keys}) == 4


def test_command_prints_a_table_and_writes_page_and_data(tmp_path, capsys):
    save_file(apertus(), tmp_path / "model.safetensors")
    page, data = tmp_path / "out" / "page.html", tmp_path / "out" / "data.json"
    assert main(["inspect", str(tmp_path), "--html", str(page), "--json", str(data)]) == 0
    said = capsys.readouterr().out
    assert "5 layers of xielu, format transformers, bf16" in said
    row = next(line for line in said.splitlines() if line.split()[0] == "0")
    assert "166" in row and "41.25" in row and "19.88" in row and "α_p far" in row
    html = page.read_text()
    assert html.count("<svg") == 2 and "layer 0: 166" in html
    # the page loads nothing
    assert not re.search(r"<script|<img|<link|@import|url\(['\"]?http|src=", html)
    kept = json.loads(data.read_text())
    assert kept["kind"] == "inspect" and kept["layers"][0]["values"]["alpha_p"] == 166.0
    assert kept["layers"][0]["step"]["alpha_p"] == 1.0
    assert {"parameter": "alpha_p", "rule": "far"} in kept["layers"][0]["flags"]
    assert all(not la["flags"] for la in kept["layers"][1:])


def test_a_checkpoint_saved_by_transformers_in_shards(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ApertusConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, dtype="bfloat16", pad_token_id=0,
    )  # fmt: skip
    model = transformers.ApertusForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = inspect_checkpoint(tmp_path)
    assert [la.values["alpha_p"].item() for la in found.layers] == pytest.approx([0.8] * 2, 2**-7)


SPEC = ig.Spec(
    name="mine",
    gradient="2*a*x + b if x > 0 else a*tanh(k*x) + b",
    params={
        "a": ig.Param(1.0, above=0),
        "k": ig.Param(1.0, above=0),
        "b": ig.Param(0.5, trainable=False),
    },
)


def declared(folder, state, spec=SPEC):
    config = {"hidden_act": f"integrand/{spec.name}", "integrand": {spec.name: to_toml(spec)}}
    config["_name_or_path"] = "integrand/some-model"
    (folder / "config.json").write_text(json.dumps({"text_config": config}))
    save_file(state, folder / "model.safetensors")


def mine(layers=12, shape=(1,)):
    layer = ig.derive(SPEC).module(shape=shape)
    state = {f"model.layers.{n}.norm.b": torch.ones(3) for n in range(layers)}
    for n in range(layers):
        for name, t in layer.state_dict().items():
            state[f"model.layers.{n}.mlp.act_fn.{name}"] = t.clone()
    state["model.layers.10.mlp.act_fn.k"] = torch.full(shape, 5.0)
    return state


def test_any_activation_whose_declaration_travels_in_the_config_is_found(tmp_path):
    declared(tmp_path, mine())
    found = inspect_checkpoint(tmp_path)
    assert found.activation.spec == SPEC and found.format == "integrand"
    # layer 10 after layer 9, not after layer 1
    assert [la.module.split(".")[2] for la in found.layers] == [str(n) for n in range(12)]
    assert found.layers[10].values["k"].item() == pytest.approx(math.log1p(math.exp(5.0)))
    assert found.layers[0].values["b"].item() == 0.5
    assert found.layers[10].flags == (("k", "far"),)


def test_a_training_run_is_inspected_by_what_it_declares(tmp_path):
    save_file(mine(), tmp_path / "model.safetensors")
    (tmp_path / "run.json").write_text(json.dumps({"activation": to_toml(SPEC)}))
    assert inspect_checkpoint(tmp_path).activation.spec == SPEC


def test_parameters_per_channel_are_summarised(tmp_path, capsys):
    state = mine(shape=(300,))
    state["model.layers.3.mlp.act_fn.k"][7] = 9.0
    declared(tmp_path, state)
    assert main(["inspect", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    assert "1 … 9" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out.json").read_text())["layers"][3]
    assert kept["values"]["k"]["count"] == 300 and kept["raw"]["k"]["max"] == 9.0
    assert {"parameter": "k", "rule": "far"} in kept["flags"]


@pytest.mark.parametrize("lost", [("a",), ("a", "k", "b")])
def test_missing_parameters_of_a_declared_activation_are_named(lost, tmp_path):
    state = mine()
    for name in lost:
        del state[f"model.layers.7.mlp.act_fn.{name}"]
    state["model.layers.7.mlp.up_proj.weight"] = torch.ones(2)
    declared(tmp_path, state)
    with pytest.raises(DataError, match=r"lacks model\.layers\.7\.mlp\.act_fn\.a"):
        inspect_checkpoint(tmp_path)


def test_an_activation_without_parameters_is_said_to_have_none(tmp_path):
    declared(tmp_path, {"w": torch.ones(1)}, ig.activation("relu2").spec)
    with pytest.raises(DataError, match="'relu2' has no trainable parameters"):
        inspect_checkpoint(tmp_path)


def test_a_catalogue_name_needs_no_declaration(tmp_path):
    layer = ig.activation("xielu_beta").module()
    state = {f"layers.0.act.{n}": t.clone() for n, t in layer.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"hidden_act": "integrand/xielu_beta"}')
    (only,) = inspect_checkpoint(tmp_path).layers
    assert only.values["beta"].item() == pytest.approx(0.5)


def test_gguf_and_abs_parametrised_checkpoints_are_inspected(tmp_path):
    write_parameters(read_parameters(apertus()), tmp_path / "a.gguf")
    found = inspect_checkpoint(tmp_path / "a.gguf")
    assert found.format == "gguf" and found.layers[0].flags[0] == ("alpha_p", "far")
    write_parameters(read_parameters(apertus()), tmp_path / "b.safetensors", "megatron-abs")
    found = inspect_checkpoint(tmp_path / "b.safetensors")
    assert found.format == "megatron-abs"
    assert found.layers[0].values["alpha_n"].item() == 41.25
    assert found.layers[0].raw["beta"].item() == 0.5


def test_stored_values_are_told_from_raw_parameters_only_by_the_format(tmp_path):
    state = {k: v.abs() + 0.5 if "alpha" in k else v for k, v in apertus().items()}
    save_file(state, tmp_path / "model.safetensors")
    assert any("could itself be a value" in n for n in inspect_checkpoint(tmp_path).notes)
    save_file(apertus(), tmp_path / "model.safetensors")
    assert not any("could itself be a value" in n for n in inspect_checkpoint(tmp_path).notes)
    write_parameters(read_parameters(apertus()), tmp_path / "model.safetensors", "megatron-abs")
    assert not any("could itself be a value" in n for n in inspect_checkpoint(tmp_path).notes)


def test_far_needs_a_factor_and_a_spread():
    assert far([1.0, 1.1, 0.9, 1.05, 4.5]) == [False] * 4 + [True]
    # nearly equal layers: a small difference is no extreme, whatever their spread
    assert not any(far([1.0, 1.0, 1.0, 1.0, 1.5]))
    # widely spread layers: a factor alone is none either
    assert not any(far([0.1, 0.4, 1.0, 3.0, 9.0]))
    assert far([1.0, 1.0, 1.0, 1.0, 0.2])[-1]
    assert far([-0.1, 0.1, 0.0, 0.05, 3.0]) == [False] * 4 + [True]
    # too few to have a usual value
    assert not any(far([1.0, 1.0, 100.0]))


@pytest.mark.parametrize("alpha", [0.8, 10.0, 166.0])
def test_fp16_reach_is_where_torch_rounds_to_infinity(alpha):
    act = ig.activation("xielu")
    reach = fp16_reach(act, {"alpha_p": alpha, "alpha_n": 0.8, "beta": 0.5})
    # the root of alpha x^2 + x/2 = 65520, on fp16's grid
    root = (-0.5 + math.sqrt(0.25 + 4 * alpha * 65520)) / (2 * alpha)
    x = torch.tensor(reach, dtype=torch.float16)
    before = torch.nextafter(x, torch.zeros_like(x)).item()
    assert before < root <= reach
    assert torch.tensor(alpha * reach**2 + reach / 2, dtype=torch.float64).half().isinf()


def test_step_is_the_spacing_of_the_stored_type():
    assert step(torch.tensor([166.0], dtype=torch.bfloat16)) == 1.0
    assert step(torch.tensor([-166.0, 0.5], dtype=torch.bfloat16)) == 1.0
    assert step(torch.tensor([1.0])) == 2**-23
