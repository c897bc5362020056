"""Which activations are found, which are replaced, and what is refused by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import integrand as ig


def mlp(act: Any = nn.ReLU, d: int = 8, h: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, h), act(), nn.Linear(h, d))


class FeedForward(nn.Module):
    """fc2(act(fc1(x))) with whatever `act` is given."""

    def __init__(self, act: Any = F.gelu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 32)
        self.fc2 = nn.Linear(32, 8)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


def replaced(model: nn.Module, **kwargs: Any) -> list[str]:
    return [site.name for site in ig.swap(model, "relu2", **kwargs).replaced]


@pytest.mark.parametrize(
    "act",
    [
        F.gelu,
        torch.relu,
        partial(F.gelu, approximate="tanh"),
        partial(F.relu, inplace=True),
        lambda x: x * x.sigmoid(),
    ],
)
def test_a_function_in_an_attribute_is_replaced_and_comes_back(act: Any) -> None:
    model = FeedForward(act)
    x = torch.randn(3, 8)
    before = model(x)
    swap = ig.swap(model, "relu2")
    assert isinstance(model.act, ig.nn.Pointwise)
    truth = model.fc2(F.relu(model.fc1(x)).square())
    assert torch.allclose(model(x), truth, rtol=1e-5, atol=1e-6)
    swap.undo()
    assert model.act is act and "act" in vars(model) and list(model._modules) == ["fc1", "fc2"]
    assert torch.equal(model(x), before)


def test_only_feed_forward_activations_are_replaced_by_default() -> None:
    gate = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid())
    stem = nn.Sequential(nn.Conv1d(8, 8, 1), nn.ReLU())
    head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model = nn.ModuleDict({"stem": stem, "gate": gate, "ff": mlp(), "head": head})
    swap = ig.swap(model, "relu2")
    assert [s.name for s in swap.replaced] == ["ff.1"]
    kept = {s.name: s.reason for s in swap.sites if not s.replaced}
    assert set(kept) == {"stem.1", "gate.1", "gate.3", "head.1"} and all(kept.values())
    assert "kept" in str(swap) and "ff.1" in str(swap)


class Attending(nn.Module):
    """Three maps of one width, as query, key and value, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x) * self.k(x) * self.act(self.v(x))


class Recurrent(nn.Module):
    """A gated recurrence has the maps of a gated block, and a convolution (arXiv:2402.19427)."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.out = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.conv = nn.Conv1d(12, 12, 3, padding=1, groups=12)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(self.x(x).mT).mT * self.act(self.y(x)))


def test_attention_and_recurrences_are_no_feed_forward_blocks() -> None:
    assert replaced(nn.ModuleList([Attending(), Recurrent(), mlp()])) == ["2.1"]


def test_a_class_that_is_a_block_elsewhere_is_one_at_any_width() -> None:
    narrow = FeedForward(nn.GELU())
    narrow.fc1, narrow.fc2 = nn.Linear(8, 4), nn.Linear(4, 8)
    other = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 8))
    assert replaced(nn.ModuleList([FeedForward(nn.GELU()), narrow, other])) == ["0.act", "1.act"]


def test_an_mlp_of_linear_maps_alone_is_replaced_as_a_whole() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    assert replaced(net) == ["1", "3"]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), nn.Sigmoid()),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)),
    ],
    ids=["output gate", "convolutions"],
)
def test_what_is_not_certain_takes_a_name(model: nn.Module) -> None:
    with pytest.raises(ig.SwapError, match=r"sites=.*'1'"):
        ig.swap(model, "relu2")
    assert replaced(model, sites="1") == ["1"]


def test_sites_are_patterns_names_or_a_predicate() -> None:
    def model() -> nn.Module:
        return nn.ModuleList([mlp(nn.ReLU), mlp(nn.GELU)])

    assert replaced(model(), sites="*.1") == ["0.1", "1.1"]
    assert replaced(model(), sites=["1.1"]) == ["1.1"]
    assert replaced(model(), sites=lambda name, old: isinstance(old, nn.GELU)) == ["1.1"]
    with pytest.raises(ig.SwapError, match=r"'2.1' matches no activation.*'0.1', '1.1'"):
        ig.swap(model(), "relu2", sites="2.1")
    with pytest.raises(ig.SwapError, match="chose none"):
        ig.swap(model(), "relu2", sites=lambda name, old: False)
    with pytest.raises(ig.SwapError, match="empty"):
        ig.swap(model(), "relu2", sites=[])


class Functional(FeedForward):
    def __init__(self) -> None:
        super().__init__(None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Dispatching(FeedForward):
    """Chooses its function by name when it runs."""

    def __init__(self) -> None:
        super().__init__("gelu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(getattr(F, str(self.act), F.relu)(self.fc1(x)))


class Unused(FeedForward):
    def __init__(self) -> None:
        super().__init__(nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class OnItsDevice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("needs another device")


class Two(FeedForward):
    def __init__(self) -> None:
        super().__init__(nn.GELU())
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x))) * self.gate(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Functional, "'1' has the linear maps of .* calls an activation inside forward"),
        (Dispatching, "'1' has the linear maps of .* calls an activation inside forward"),
        (Unused, "'1.act' .* does not use 'act'"),
        (lambda: FeedForward(OnItsDevice()), "'1.act' .OnItsDevice.* cannot be measured"),
        (Two, "its block holds 2 activations"),
        (lambda: mlp(lambda: nn.Softmax(-1)), r"'1.1' \(Softmax.* depends on"),
        (lambda: mlp(nn.RReLU), r"'1.1' \(RReLU.* two calls on the same input differ"),
        (lambda: mlp(lambda: nn.PReLU(32)), r"'1.1' \(PReLU.* cannot be measured"),
    ],
)
def test_one_block_that_cannot_be_replaced_stops_the_whole_swap(
    make: Callable[[], nn.Module], message: str
) -> None:
    model = nn.Sequential(mlp(), make())
    modules = dict(model.named_modules())
    with pytest.raises(ig.SwapError, match=message):
        ig.swap(model, "relu2")
    assert dict(model.named_modules()) == modules


def test_the_activation_is_a_name_a_spec_a_file_or_itself(tmp_path: Path) -> None:
    act = ig.activation("relu2")
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ngradient = "2*x if x > 0 else 0"\n')
    for given in (act, act.spec, "relu2", path, str(path)):
        model = mlp()
        ig.swap(model, given)
        assert model[1].spec.sha256 == act.spec.sha256


def test_a_model_that_holds_no_activation_says_so() -> None:
    with pytest.raises(ig.SwapError, match=r"no activation was found.*inside forward"):
        ig.swap(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout()), "relu2")


class Cubic(nn.Module):
    """A class nobody has heard of, pointwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-1, 1).pow(3)


class RootMeanSquare(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt()


class DropPath(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * torch.bernoulli(torch.full((len(x),) + (1,) * (x.ndim - 1), 0.9))


def test_a_strangers_module_is_an_activation_where_it_measures_as_one() -> None:
    model = nn.Sequential(RootMeanSquare(), nn.Linear(8, 32), Cubic(), nn.Linear(32, 8), DropPath())
    rng = torch.get_rng_state()
    swap = ig.swap(model, "relu2")
    assert [(s.name, s.before) for s in swap.sites] == [("2", "Cubic")]
    assert torch.equal(rng, torch.get_rng_state())


def test_torchs_encoder_layer_leaves_its_fused_path() -> None:
    """In evaluation that path computes GELU or ReLU by a number, whatever the attribute holds."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        before = layer(x)
        swap = ig.swap(layer, "relu2")
        fused = layer(x)
        training = layer.train()(x)
        assert torch.allclose(fused, training, atol=1e-5)
        assert not torch.allclose(fused, before, atol=1e-2)
        swap.undo()
        assert layer.activation_relu_or_gelu == 1 and layer.activation is F.relu
        assert torch.equal(layer.eval()(x), before)


def test_one_instance_at_two_sites_stays_one_instance() -> None:
    act = nn.GELU()
    model = nn.Sequential(mlp(lambda: act), mlp(lambda: act))
    swap = ig.swap(model, "xiprelu")
    assert model[0][1] is model[1][1] and sum("alpha_p" in n for n, _ in model.named_parameters())
    assert {s.name: s.shared for s in swap.sites} == {"0.1": ("1.1",), "1.1": ("0.1",)}
    swap.undo()
    assert model[0][1] is act and model[1][1] is act


def test_one_block_at_two_places_is_replaced_once() -> None:
    block = mlp()
    model = nn.Sequential(block, nn.LayerNorm(8), block)
    assert replaced(model) == ["0.1"]
    assert isinstance(model[2][1], ig.nn.Pointwise)


def test_a_check_on_data_finds_what_never_ran_and_what_no_attribute_holds() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ff, self.spare = mlp(), mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.ff(torch.tanh(x))

    model = Skips()
    x = torch.randn(2, 8)
    with pytest.raises(ig.SwapError, match=r"'spare.1' was replaced but never ran"):
        ig.swap(model, "relu2").check(x)
    model = Skips()
    assert ig.swap(model, "relu2", sites="ff.1").check(x) == ["Skips: tanh"]


class Block(nn.Module):
    """d -> h -> d with an activation, wherever the forward of a subclass puts it."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(8, 32), nn.Linear(32, 8), act


class OutputGate(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.down(self.up(x).clamp(min=0)))


class OutputActivation(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.down(self.up(x)))


class UsedTwice(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.down(self.act(self.up(x))))


class Before(Block):
    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x + self.act(temb)))


class Attention(Block):
    def __init__(self, act: nn.Module) -> None:
        super().__init__(act)
        self.q, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x)
        return self.down(self.act(q @ self.up(x).mT) @ q)


class Needs(Block):
    """Cannot be run alone."""

    def forward(self, x: torch.Tensor, size: Any) -> torch.Tensor:
        return self.act(self.down(self.up(x).view(*size)))


class NeedsTwice(Block):
    def forward(self, x: torch.Tensor, size: Any) -> torch.Tensor:
        return self.act(self.down(self.act(self.up(x).view(*size))))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (OutputGate(nn.Sigmoid()), "on width 8, not on the hidden width 32"),
        (OutputActivation(nn.SiLU()), "on width 8, not on the hidden width 32"),
        (UsedTwice(nn.GELU()), "runs it 2 times"),
        (Before(nn.SiLU()), "on width 8"),
        (Attention(nn.Sigmoid()), "on width 3"),
        (Needs(nn.Sigmoid()), "sigmoid or tanh"),
        (Needs(nn.Tanh()), "sigmoid or tanh"),
        (NeedsTwice(nn.GELU()), "more than once"),
    ],
    ids=lambda p: type(p).__name__ if isinstance(p, nn.Module) else "",
)
def test_an_activation_out_of_order_in_its_block_takes_a_name(
    block: nn.Module, message: str
) -> None:
    model = nn.ModuleList([mlp(), block])
    with pytest.raises(ig.SwapError, match=f"'1.act' .*{message}.*sites="):
        ig.swap(model, "relu2")
    assert dict(block.named_children())["act"] is block.act
    assert not any(m._forward_hooks for m in model.modules())
    assert replaced(model, sites="1.act") == ["1.act"]


def test_a_sigmoid_between_the_maps_is_the_blocks_activation() -> None:
    assert replaced(FeedForward(nn.Sigmoid())) == ["act"]


def _relu(x: torch.Tensor) -> torch.Tensor:
    return x * (x > 0)


class Clamps(FeedForward):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x).clamp(min=0))


class Maximum(FeedForward):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc1(x)
        return self.fc2(torch.maximum(h, torch.zeros_like(h)))


class Exponential(FeedForward):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc1(x)
        return self.fc2(h / (1 + torch.exp(-h)))


class Helper(FeedForward):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(_relu(self.fc1(x)))


class InAList(FeedForward):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act[0](self.fc1(x)))


class Sized(FeedForward):
    def forward(self, x: torch.Tensor, size: Any) -> torch.Tensor:
        return self.fc2(_relu(self.fc1(x).view(*size)))


class Linear(FeedForward):
    """Two linear maps and nothing between them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x))


@pytest.mark.parametrize("cls", [Clamps, Maximum, Exponential, Helper, InAList, Sized])
def test_a_block_whose_activation_nothing_shows_stops_the_whole_swap(cls: Any) -> None:
    model = nn.Sequential(mlp(), cls([nn.GELU()]))
    with pytest.raises(ig.SwapError, match="'1' has the linear maps of a feed-forward block"):
        ig.swap(model, "relu2")
    assert replaced(model, sites="0.1") == ["0.1"]


def test_a_block_without_activation_hides_none() -> None:
    assert replaced(nn.Sequential(mlp(), Linear(None))) == ["0.1"]
