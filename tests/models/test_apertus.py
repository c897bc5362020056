"""Tiny random Apertus models of transformers with our xIELU in the place of theirs."""

import copy
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import integrand as ig

transformers = pytest.importorskip("transformers")

HALF = [torch.bfloat16, torch.float16]
# raw parameters: those of a new model, and those that layer 0 of Apertus-8B has learned
INITIAL, LEARNED = (0.203125, -1.046875), (166.0, 40.75)


def model_of(activation="xielu", dtype=torch.float32, layers=2, **fields):
    config = transformers.ApertusConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        initializer_range=0.1,
        pad_token_id=0,
        eos_token_id=None,
        hidden_act=activation,
        dtype=dtype,
        **fields,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def theirs_of(dtype, raw, seed=0):
    torch.manual_seed(seed)
    model = model_of(dtype=dtype)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.act_fn.alpha_p.fill_(raw[0])
            layer.mlp.act_fn.alpha_n.fill_(raw[1])
    return model


def ours_of(theirs):
    model = model_of("integrand/xielu", theirs.dtype)
    model.load_state_dict(theirs.state_dict(), strict=True)
    return model


def tokens(seed=0):
    return torch.randint(1, 96, (3, 40), generator=torch.Generator().manual_seed(seed))


class Exact(nn.Module):
    """xIELU in fp64 with the values that a module's raw parameters stand for."""

    def __init__(self, module):
        super().__init__()
        self.alpha_p = nn.Parameter(module.alpha_p.detach().double())
        self.alpha_n = nn.Parameter(module.alpha_n.detach().double())
        self.beta = module.beta.double()

    def forward(self, x):
        near = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x / 120)))
        tail = torch.where(x.abs() < 1e-3, near, torch.expm1(x.clamp(max=0)) - x)
        alpha_n = self.beta + F.softplus(self.alpha_n)
        positive = F.softplus(self.alpha_p) * x * x
        return torch.where(x > 0, positive, alpha_n * tail) + self.beta * x


class ExactNorm(nn.Module):
    """RMSNorm without transformers' cast to fp32."""

    def __init__(self, module):
        super().__init__()
        self.weight, self.eps = module.weight, module.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def in_fp64(theirs):
    """The model with the same weights evaluated in fp64 throughout."""
    model = copy.deepcopy(theirs).double()
    exact = {"ApertusRMSNorm": ExactNorm, "XIELUActivation": Exact}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if (make := exact.get(type(child).__name__)) is not None:
                setattr(parent, name, make(child))
    return model


def logits_and_gradients(model, seed):
    model.zero_grad()
    found = model(tokens(seed))
    F.cross_entropy(
        found.logits[:, :-1].flatten(0, 1).double(), tokens(seed)[:, 1:].flatten()
    ).backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters()}
    return {"logits": found.logits.detach().double()}, gradients


def error(found, truth):
    """Root of the summed squares of found - truth over all tensors."""
    return math.sqrt(sum(float((found[name] - t).square().sum()) for name, t in truth.items()))


@pytest.mark.parametrize("raw", [INITIAL, LEARNED], ids=["initial", "learned"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_logits_and_gradients_are_at_least_as_close_to_fp64_as_with_transformers_own(dtype, raw):
    """By the root mean square over all logits, and over all gradients, of a few random models."""
    logs = []
    for seed in range(4):
        theirs = theirs_of(dtype, raw, seed)
        models = in_fp64(theirs), ours_of(theirs), theirs
        truths, ours, peers = (logits_and_gradients(model, seed) for model in models)
        logs.append(
            [
                math.log(error(o, t) / error(p, t))
                for t, o, p in zip(truths, ours, peers, strict=True)
            ]
        )
    for ratios in zip(*logs, strict=True):
        # in fp32 the rest of the model decides: no further away than chance explains
        slack = 0 if dtype in HALF else 4 * statistics.stdev(ratios) / math.sqrt(len(ratios))
        assert statistics.mean(ratios) < slack


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_checkpoints_go_both_ways_bit_for_bit(tmp_path, dtype):
    theirs = theirs_of(dtype, LEARNED)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = transformers.ApertusForCausalLM.from_pretrained(
        tmp_path / "theirs", hidden_act="integrand/xielu"
    )
    assert ours.model.layers[0].mlp.act_fn.spec.name == "xielu"
    assert ours.dtype == dtype
    assert ours.model.layers[0].mlp.act_fn.alpha_p.dtype == torch.float32
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.ApertusForCausalLM.from_pretrained(tmp_path / "ours", hidden_act="xielu")
    expected, found = theirs.state_dict(), back.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert torch.equal(found[name].to(dtype), value)


def test_a_checkpoint_whose_alphas_were_lost_is_refused(tmp_path):
    theirs = theirs_of(torch.float32, LEARNED)
    state = {k: v for k, v in theirs.state_dict().items() if ".alpha_" not in k}
    theirs.save_pretrained(tmp_path, state_dict=state)
    lost = r"lacks model\.layers\.0\.mlp\.act_fn\.alpha_p, .*layers\.1\.mlp\.act_fn\.alpha_n;"
    with pytest.raises(ig.DataError, match=lost):
        transformers.ApertusForCausalLM.from_pretrained(tmp_path, hidden_act="integrand/xielu")


def test_trained_parameters_lose_no_bit_in_a_bf16_model(tmp_path):
    model = ours_of(theirs_of(torch.bfloat16, LEARNED))
    with torch.no_grad():
        model.model.layers[1].mlp.act_fn.alpha_p.fill_(166.3)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(
        again.state_dict()["model.layers.1.mlp.act_fn.alpha_p"], torch.tensor([166.3])
    )


def assert_rounded_once(layer, x, y):
    """y within 1 ulp of f(x), in fp32 4 of the largest term: nothing is wider there."""
    x = x.detach().double()
    truth = Exact(layer)(x).detach()
    limits = torch.finfo(y.dtype)
    largest = truth.abs() + 2 * (layer.beta.double() * x).abs()
    slack = 4 * 2.0**-23 * largest if y.dtype is torch.float32 else 2.0**-22 * largest
    ulp = limits.eps * truth.abs().clamp(min=limits.smallest_normal)
    assert ((y.double() - truth).abs() <= ulp + slack).all()


@pytest.mark.parametrize("given", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("raw", [None, torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_parameters_of_another_dtype_than_x(given, raw, trained):
    layer = ig.activation("xielu").module(dtype=raw)
    with torch.no_grad():
        layer.alpha_p.fill_(10.3)
        layer.alpha_n.fill_(3.7)
    layer.requires_grad_(trained)
    x = torch.linspace(-4, 4, 801).to(given).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == given
    assert_rounded_once(layer, x, y)
    if trained:
        assert layer.alpha_p.grad.dtype == layer.alpha_p.dtype
        raw, positive = layer.alpha_p.detach().double(), x.detach().double().clamp(min=0)
        expected = float(F.sigmoid(raw) * positive.square().sum())
        slack = torch.finfo(layer.alpha_p.dtype).eps + 1e-5
        assert abs(float(layer.alpha_p.grad) / expected - 1) <= slack


class FourBit(nn.Module):
    """A frozen matrix in 4 bits that computes in bf16, as bitsandbytes' does."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach().float()
        self.scale = float(weight.abs().max()) / 7
        self.register_buffer("codes", (weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return F.linear(x.bfloat16(), self.codes.bfloat16() * self.scale)


class Adapted(nn.Module):
    """A frozen layer with a trained fp32 adapter of rank 2 beside it (LoRA)."""

    def __init__(self, base, inputs, outputs):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x.float())).bfloat16()


@pytest.mark.parametrize("casts", ["none", "all to fp32", "all to bf16"])
def test_adapters_train_on_a_4_bit_model_whatever_casts_the_parameters(casts):
    model = ours_of(theirs_of(torch.bfloat16, LEARNED))
    for parameter in model.parameters():
        parameter.requires_grad = False
        # how preparing a model for training in few bits casts: past every method of the module
        if casts != "none":
            parameter.data = parameter.data.to(
                torch.float32 if casts == "all to fp32" else torch.bfloat16
            )
    for layer in model.model.layers:
        layer.mlp.up_proj = Adapted(FourBit(layer.mlp.up_proj), 64, 160)
        layer.mlp.down_proj = FourBit(layer.mlp.down_proj)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, FourBit(getattr(layer.self_attn, name)))
    model.lm_head = FourBit(model.lm_head)
    seen = []
    hook = model.model.layers[0].mlp.act_fn.register_forward_hook(
        lambda _, x, y: seen.append((x[0], y))
    )
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens(), labels=tokens()).loss.backward()
    hook.remove()
    x, y = seen[0]
    assert x.dtype == y.dtype == torch.bfloat16
    assert_rounded_once(model.model.layers[0].mlp.act_fn, x, y)
    for layer in model.model.layers:
        assert torch.isfinite(layer.mlp.up_proj.down.weight.grad).all()
        assert layer.mlp.up_proj.up.weight.grad.abs().max() > 0
        assert layer.mlp.act_fn.alpha_p.grad is None


def test_a_model_in_fp32_runs_under_bf16_autocast():
    model = ours_of(theirs_of(torch.float32, INITIAL))
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens(), labels=tokens()).loss.backward()
    gradient = model.model.layers[0].mlp.act_fn.alpha_p.grad
    assert gradient.dtype == torch.float32
    assert gradient.abs() > 0


def generate(model, **options):
    return model.generate(tokens()[:2, :6], max_new_tokens=8, do_sample=False, **options)


@pytest.fixture(scope="module")
def generated():
    torch.manual_seed(1)
    model = model_of("integrand/xielu", layers=1)
    return model, generate(model)


def test_generation_follows_transformers_own(generated):
    model, found = generated
    theirs = model_of(layers=1)
    theirs.load_state_dict(model.state_dict())
    assert found.shape == (2, 14)
    assert torch.equal(found, generate(theirs))


def test_generation_with_a_compiled_forward_gives_the_same_tokens(generated):
    model, expected = generated
    compiled = copy.deepcopy(model)
    torch._dynamo.reset()
    # the whole forward as one graph; Inductor's own code would take a minute to build
    compiled.forward = torch.compile(compiled.forward, fullgraph=True, backend="aot_eager")
    assert torch.equal(generate(compiled, cache_implementation="static"), expected)


def test_generation_with_blocks_compiled_by_inductor_gives_the_same_tokens(generated):
    model, expected = generated
    compiled = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled.model.layers[0].mlp.compile(fullgraph=True, dynamic=True)
    assert torch.equal(generate(compiled, use_cache=False), expected)
