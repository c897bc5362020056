"""Which blocks `accelerate` may take, and what makes one it has taken run its own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import integrand as ig
from integrand.errors import DataError, Error
from integrand.nn.mlp import MLP, GatedMLP
from integrand.sparsity import accelerate, feed_forwards
from integrand.sparsity.penalty import Stage, penalise, remove_penalty
from integrand.sparsity.thresholds import Thresholds, fingerprint, load_thresholds

D, H = 16, 64
Change = Callable[[Tensor], Tensor]


def same(t: Tensor) -> Tensor:
    return t


class Gated(nn.Module):
    """down(inside(act(enter(gate)) * enter(up))), then `after`; what stands between is data."""

    def __init__(self, enter: Change = same, inside: Change = same, after: Change = same) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(D, H), nn.Linear(D, H), nn.Linear(H, D)
        self.act, self.seen, self.drop = nn.ReLU(), nn.Identity(), nn.Dropout(0.5)
        self.steps = enter, inside, after

    def forward(self, x: Tensor) -> Tensor:
        enter, inside, after = self.steps
        h = inside(self.act(enter(self.gate(x))) * enter(self.up(x)))
        return after(self.down(self.drop(self.seen(h))))


def model(*steps: Change) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Gated(*steps)).eval()


def run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x)


def limit(t: Tensor) -> Tensor:
    return t.clamp(-7, 7)


@pytest.mark.parametrize(
    "steps",
    [(limit,), (same, limit), (same, lambda h: h + 0.5)],
    ids=["limit of what enters", "limit", "small offset"],
)
def test_what_shows_at_tokens_of_one_size_is_seen(steps: tuple[Change, ...]) -> None:
    # DeepSeek-V4 and GLM limit what enters the activation to 7
    with pytest.raises(Error, match="does something else between"):
        feed_forwards(model(*steps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_large_inputs_hide_no_ordinary_block(dtype: torch.dtype) -> None:
    # fp16 overflows on the way
    (found,) = feed_forwards(model().to(dtype))
    assert found.form == "gated"


def otherwise_alone(h: Tensor) -> Tensor:
    return 2 * h if h.shape[-2] == 1 else h


def refuses_one(h: Tensor) -> Tensor:
    if h.shape[-2] == 1:
        raise ValueError("a prompt has two tokens\nat least")
    return h


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((same, same, limit), "after its map back"),
        ((same, otherwise_alone), "after its map back"),
        ((same, same, lambda y: y * float("nan")), "gives nothing finite"),
        ((same, refuses_one), "alone (ValueError: a prompt has two tokens)"),
    ],
    ids=["limit", "one token", "NaN", "raises"],
)
def test_a_block_that_does_more_when_it_decodes_is_left(
    steps: tuple[Change, ...], reason: str
) -> None:
    handle = accelerate(model(*steps), break_even=1.0)
    assert not handle.blocks and reason in handle.left["0"]


def three_dims(h: Tensor) -> Tensor:
    batch, tokens, width = h.shape
    return h.view(batch, tokens, width)


def test_a_block_of_three_dims_is_taken() -> None:
    subject = model(same, three_dims)
    x = torch.randn(1, 1, D)
    expected = run(subject, x)
    handle = accelerate(subject, break_even=1.0)
    torch.testing.assert_close(run(subject, x), expected)
    assert handle.calls()["skipping"] == 1


class Adding(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def test_a_weight_that_is_not_finite_hides_no_residual() -> None:
    block = Adding()
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            block.down.weight[3, 5] = value
        assert "after its map back" in accelerate(nn.Sequential(block)).left["0"]


class WithResidual(Gated):
    """The signature of BLOOM's and MPT's blocks."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + super().forward(x)


def test_a_block_that_takes_more_than_hidden_states_is_left() -> None:
    with pytest.raises(Error, match=r"alone \(TypeError: .*'residual'"):
        feed_forwards(nn.Sequential(WithResidual()))
    handle = accelerate(nn.Sequential(Gated(), WithResidual()).eval(), break_even=1.0)
    assert list(handle.blocks) == ["0"] and "'residual'" in handle.left["1"]


def _scale(block: nn.Module) -> None:
    block.scale = nn.Parameter(torch.ones(D))


def _mask(block: nn.Module) -> None:
    block.seen.register_buffer("mask", torch.ones(H))


def _none_yet(block: nn.Module) -> None:
    block.register_parameter("scale", None)


def _hook(block: nn.Module) -> None:
    block.seen.register_forward_hook(lambda *_: None)


def _hook_on_map(block: nn.Module) -> None:
    block.down.register_forward_pre_hook(lambda *_: None)


def _patched(block: nn.Module) -> None:
    block.seen.forward = same


@pytest.mark.parametrize(
    ("add", "named"),
    [
        (_scale, "holds 'scale'"), (_mask, "holds 'mask'"), (_none_yet, "holds 'scale'"),
        (_hook, "on 'seen'"), (_hook_on_map, "on 'down'"), (_patched, "on 'seen'"),
    ],
)  # fmt: skip
def test_a_block_that_holds_more_is_left(add: Callable[[nn.Module], None], named: str) -> None:
    subject = model()
    add(subject[0])
    handle = accelerate(subject, break_even=1.0)
    assert not handle.blocks and named in handle.left["0"]


def test_a_penalty_is_told_of() -> None:
    subject = model()
    penalise(subject, [Stage(1.0, 0.1)])
    assert "remove_penalty" in accelerate(subject, break_even=1.0).left["0"]
    remove_penalty(subject)
    assert list(accelerate(subject, break_even=1.0).blocks) == ["0"]


class Tripled(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def _hook_later(block: nn.Module, _: Any) -> None:
    block.seen.register_forward_hook(lambda *given: 3 * given[-1])


def _hook_on_act(block: nn.Module, _: Any) -> None:
    block.act.register_forward_hook(lambda *given: 3 * given[-1])


def _hook_before_act(block: nn.Module, _: Any) -> None:
    block.act.register_forward_pre_hook(lambda _, given: (3 * given[0],))


def _act_forward(block: nn.Module, _: Any) -> None:
    block.act.forward = torch.tanh


def _class(block: nn.Module, _: Any) -> None:
    block.__class__ = Tripled


def _forward_of_class(block: nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gated, "forward", lambda self, x: self.down(self.up(x)))


def _forward_of_act_class(block: nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(block.act), "forward", lambda self, x: torch.tanh(x))


def _dropout(block: nn.Module, _: Any) -> None:
    block.drop.train()


@pytest.mark.parametrize("act", [nn.ReLU, lambda: ig.activation("relu").module()])
@pytest.mark.parametrize(
    "change",
    [
        _hook_later, _hook_on_act, _hook_before_act, _act_forward, _class, _forward_of_class,
        _forward_of_act_class, _dropout,
    ],
)  # fmt: skip
def test_a_block_that_is_changed_inside_runs_its_own_code(
    change: Callable[..., None], act: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = model()
    subject[0].act = act()
    handle = accelerate(subject, break_even=1.0)
    x = torch.randn(1, D)
    before = run(subject, x)
    change(subject[0], monkeypatch)
    torch.manual_seed(1)
    with torch.no_grad():
        expected = type(subject[0]).forward(subject[0], x)
    torch.manual_seed(1)
    assert torch.equal(run(subject, x), expected) and not torch.allclose(expected, before)
    assert handle.calls() == {"skipping": 1, "dense": 0, "original": 1}


def test_thresholds_go_by_the_activation_as_it_is() -> None:
    # of ours the kernel is called directly: not past a hook
    subject = nn.Sequential(MLP(ig.activation("relu"), D, H)).eval()
    accelerate(subject, {"gate/0": torch.full((H,), 0.1)}, break_even=1.0)
    subject[0].act_fn.register_forward_hook(lambda *_: torch.zeros(1, H))
    assert torch.equal(run(subject, torch.randn(1, D)), subject[0].down_proj(torch.zeros(1, H)))
    subject[0].__class__ = type("Other", (MLP,), {})
    with pytest.raises(Error, match="another 'Other'"):
        run(subject, torch.randn(1, D))


@pytest.mark.parametrize("thresholds", [None, {"gate/0": torch.full((H,), 0.1)}])
def test_a_trace_holds_the_models_own_code(thresholds: dict[str, Tensor] | None) -> None:
    subject = model()
    accelerate(subject, thresholds, break_even=1.0)
    x, other = torch.randn(2, 1, D)
    with torch.no_grad():
        traced = torch.jit.trace(subject, x, check_trace=False)
        torch.testing.assert_close(traced(other), subject(other))


def test_a_row_that_overflows_by_its_bias_is_not_skipped() -> None:
    subject = nn.Sequential(GatedMLP(ig.activation("relu"), D, H, bias=True)).eval()
    with torch.no_grad():
        for p in subject.parameters():
            p.zero_()
        subject[0].gate_proj.bias.fill_(-1.0)
        subject[0].up_proj.weight.fill_(1.5e38 / D)
        subject[0].up_proj.bias.fill_(2e38)
    x = torch.ones(1, D)
    assert bool(run(subject, x).isnan().all())
    accelerate(subject, break_even=1.0)
    assert bool(run(subject, x).isnan().all())


def test_a_model_without_parameters() -> None:
    with pytest.raises(Error, match="needs feed-forward blocks"):
        accelerate(nn.Sequential())


@pytest.mark.parametrize("given", [Path("t.safetensors"), 0.1, [0.1], torch.ones(2)])
def test_thresholds_that_are_none(given: Any) -> None:
    with pytest.raises(DataError, match=r"must be Thresholds or tensors.*load_thresholds"):
        accelerate(model(), given)


WRONG = {
    "empty": torch.ones(0),
    "fp8": torch.ones(H).to(torch.float8_e4m3fn),
    "complex": torch.ones(H, dtype=torch.complex64),
    "negative": -torch.ones(H),
}


@pytest.mark.parametrize("value", [*WRONG.values(), [0.1] * H, 0.1], ids=[*WRONG, "list", "float"])
def test_values_of_thresholds_that_are_wrong(value: Any) -> None:
    with pytest.raises(DataError, match=f"'gate/0' must be (a tensor of {H} numbers|at least 0)"):
        accelerate(model(), {"gate/0": value})


@pytest.mark.parametrize("wrong", [*WRONG, "name"])
def test_a_file_of_thresholds_that_is_wrong(wrong: str, tmp_path: Path) -> None:
    subject, path = model(), tmp_path / "t.safetensors"
    values = {"gate/7": torch.ones(H)} if wrong == "name" else {"gate/0": WRONG[wrong]}
    Thresholds("cats", 0.5, fingerprint(subject), values).save(path)
    named = "must be named hidden/NAME.*got 'gate/7'" if wrong == "name" else "'gate/0' must be"
    with pytest.raises(DataError, match=named):
        load_thresholds(path, subject)
