"""Blocks that skip inactive neurons give what the dense ones give."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import integrand as ig
from integrand.errors import DataError, Error
from integrand.nn.mlp import MLP, GatedMLP
from integrand.sparsity import accelerate, break_even, feed_forwards, undo
from integrand.sparsity.skipping import RowSkip
from integrand.sparsity.thresholds import Thresholds, fingerprint

DTYPES = (torch.float32, torch.bfloat16)
FORMS = ("plain", "gated", "both")


def block(
    form: str = "gated", d: int = 37, h: int = 131, dtype: torch.dtype = torch.float32,
    bias: bool = True, act: str = "relu", seed: int = 0,
) -> nn.Module:  # fmt: skip
    torch.manual_seed(seed)
    activation = ig.activation(act)
    if form == "plain":
        mlp: nn.Module = MLP(activation, d, h, bias)
    else:
        mlp = GatedMLP(activation, d, h, bias, activate_up=form == "both")
    model = nn.Sequential(mlp).to(dtype).eval()
    for p in model.parameters():
        p.data.add_(torch.randn_like(p) * 0.1)
    return model


def exact_and_bound(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The block in fp64, and how far any order of its roundings may lie from it.

    A sum of n terms in fp32 is off by at most n 2^-24 times the sum of their magnitudes, a stored
    value by eps/2 of itself; act is 1-Lipschitz here, and errors carry on to what they multiply.
    """
    (found,) = feed_forwards(copy.deepcopy(model).double())
    eps = torch.finfo(x.dtype).eps
    x = x.double()

    def linear(v: Tensor, off: Tensor, matrix: Any) -> tuple[Tensor, Tensor]:
        w, b = matrix.weight.double(), matrix.bias
        b = torch.zeros(len(w), dtype=torch.float64) if b is None else b.double()
        value, size = F.linear(v, w, b), F.linear(v.abs() + off, w.abs(), b.abs())
        terms = (v.shape[-1] + 2) * 2.0**-24
        return value, F.linear(off, w.abs()) + terms * size + eps * (value.abs() + terms * size)

    gate, up, down = found.matrices()
    with torch.no_grad():
        h, off = linear(x, torch.zeros_like(x), gate or up)
        h, off = found.act(h), off + eps * found.act(h).abs()
        if gate is not None:
            u, u_off = linear(x, torch.zeros_like(x), up)
            if found.form == "both":
                u, u_off = found.act(u), u_off + eps * found.act(u).abs()
            h, off = h * u, off * (u.abs() + u_off) + h.abs() * u_off + eps * (h * u).abs()
        return linear(h, off, down)


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_skipping_is_dense_within_reassociation(form: str, dtype: torch.dtype, bias: bool) -> None:
    # past 64 columns and rows a vector, a part and a group of rows each end in a tail
    for d, h in ((37, 131), (64, 256), (3, 21), (530, 600)):
        model = block(form, d, h, dtype, bias)
        dense = copy.deepcopy(model)
        handle = accelerate(model, break_even=1.0)
        for batch in (1, 2, 3, 5, 8, 64, 67):
            x = torch.randn(batch, d).to(dtype)
            exact, bound = exact_and_bound(dense, x)
            for name, y in (("skipping", run(model, x)), ("dense", run(dense, x))):
                assert bool(((y.double() - exact).abs() <= bound).all()), (name, d, h, batch)
        calls = handle.calls()
        assert calls["skipping"] == 8 and calls["original"] == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_own_dense_path_is_dense_within_reassociation(form: str, dtype: torch.dtype) -> None:
    model = block(form, dtype=dtype)
    dense = copy.deepcopy(model)
    handle = accelerate(model, break_even=1e-9)
    for batch in (1, 4, 33):
        x = torch.randn(batch, 37).to(dtype)
        exact, bound = exact_and_bound(dense, x)
        assert bool(((run(model, x).double() - exact).abs() <= bound).all())
    assert handle.calls() == {"skipping": 0, "dense": 3, "original": 0}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [-1e3, 1e3], ids=["all zero", "all active"])
def test_no_and_all_neurons_active(form: str, level: float) -> None:
    model = block(form)
    (found,) = feed_forwards(model)
    with torch.no_grad():
        found.inner[0].bias.fill_(level)
    dense = copy.deepcopy(model)
    accelerate(model, break_even=1.0)
    for batch in (1, 7):
        x = torch.randn(batch, 37)
        y = run(model, x)
        if level < 0:
            assert torch.equal(y, found.down.bias.expand(batch, -1))
        exact, bound = exact_and_bound(dense, x)
        assert bool(((y.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["x", "gate", "up", "down", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_comes_out_as_from_the_dense_block(
    form: str, dtype: torch.dtype, where: str, value: float
) -> None:
    model = block(form, dtype=dtype)
    dense = copy.deepcopy(model)
    accelerate(model, break_even=1.0)
    x = torch.randn(2, 37).to(dtype)
    run(model, x)
    for each in (model, dense):
        (found,) = feed_forwards(each)
        tensor = {
            "x": x, "gate": found.inner[0].weight, "up": found.inner[-1].weight,
            "down": found.down.weight, "bias": found.down.bias,
        }[where]  # fmt: skip
        with torch.no_grad():
            # a place that most neurons do not use
            tensor[7 if tensor.ndim == 1 else (1, 7)] = value
    got, expected = run(model, x), run(dense, x)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isinf(), expected.isinf())
    # -inf before a rectifier is 0
    assert where in ("gate", "up") or not bool(expected.isfinite().all())


def test_overflow_in_a_skipped_row_is_not_lost() -> None:
    model = block("gated", bias=False)
    dense = copy.deepcopy(model)
    accelerate(model, break_even=1.0)
    for each in (model, dense):
        with torch.no_grad():
            each[0].gate_proj.weight[0] = -1.0
            each[0].up_proj.weight[0] = 3e38
    x = torch.full((1, 37), 2.0)
    assert bool(run(dense, x).isnan().all()) and bool(run(model, x).isnan().all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_every_run_and_for_any_number_of_threads(dtype: torch.dtype) -> None:
    # large enough for several threads
    model = block("gated", 256, 2048, dtype)
    accelerate(model, break_even=1.0)
    threads = torch.get_num_threads()
    for batch in (1, 6):
        x = torch.randn(batch, 256).to(dtype)
        first = run(model, x)
        assert all(torch.equal(first, run(model, x)) for _ in range(5))
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                assert torch.equal(first, run(model, x))
        finally:
            torch.set_num_threads(threads)


def test_views_and_shapes() -> None:
    model = block("gated")
    dense = copy.deepcopy(model)
    accelerate(model, break_even=1.0)
    wide = torch.randn(4, 2, 80)
    for x in (
        wide[0, 0, :37],
        wide[..., :37],
        wide[..., ::2][..., :37],
        wide.mT[:, :37].mT[..., :37],
    ):
        torch.testing.assert_close(run(model, x), run(dense, x))
    assert run(model, torch.empty(0, 37)).shape == (0, 37)


def test_the_state_dict_stays_and_undo_restores() -> None:
    model = block("gated", dtype=torch.bfloat16)
    before = {k: (v.clone(), v.stride()) for k, v in model.state_dict().items()}
    x = torch.randn(1, 37).to(torch.bfloat16)
    y = run(model, x)
    parameters = list(model.parameters())
    handle = accelerate(model, break_even=1.0)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    state = model.state_dict()
    assert list(state) == list(before)
    assert all(
        torch.equal(state[k], v) and state[k].shape == v.shape for k, (v, _) in before.items()
    )
    # the transposed layout is the only copy
    assert all(v.untyped_storage().nbytes() == v.nbytes for v in state.values())
    handle.undo()
    after = model.state_dict()
    assert all(torch.equal(after[k], v) and after[k].stride() == s for k, (v, s) in before.items())
    assert torch.equal(run(model, x), y) and "forward" not in vars(model[0])


def test_saving(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file, save_model

    model = block("gated")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    accelerate(model, break_even=1.0)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    save_model(model, str(tmp_path / "m.safetensors"))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "f.safetensors"
    )
    for found in (
        torch.load(tmp_path / "w.pt"),
        load_file(tmp_path / "m.safetensors"),
        load_file(tmp_path / "f.safetensors"),
    ):
        assert all(torch.equal(found[k], v) for k, v in before.items())


def _edit(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(-1.5)


def _data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data.mul_(-1.5)


def _load(assign: bool) -> Callable[[nn.Module], object]:
    def load(model: nn.Module) -> None:
        other = {k: -1.5 * v for k, v in block("gated").state_dict().items()}
        model.load_state_dict({k: v.contiguous() for k, v in other.items()}, assign=assign)

    return load


@pytest.mark.parametrize(
    "change", [_edit, _data, _load(False), _load(True)], ids=["edit", "data", "load", "assign"]
)
def test_weights_are_never_stale(change: Callable[[nn.Module], object]) -> None:
    model = block("gated")
    dense = copy.deepcopy(model)
    handle = accelerate(model, break_even=1.0)
    x = torch.randn(1, 37)
    before = run(model, x)
    change(model)
    change(dense)
    after = run(model, x)
    torch.testing.assert_close(after, run(dense, x))
    assert not torch.equal(before, after) and handle.calls()["skipping"] == 2
    handle.undo()
    assert torch.equal(run(model, x), run(dense, x))


def test_dtype_moves() -> None:
    model = block("gated")
    handle = accelerate(model, break_even=1.0)
    x = torch.randn(1, 37)
    for dtype, path in ((torch.bfloat16, "skipping"), (torch.float64, "original"),
                        (torch.float16, "original"), (torch.float32, "skipping")):  # fmt: skip
        before = handle.calls()[path]
        model.to(dtype)
        y = run(model, x.to(dtype))
        assert y.dtype == dtype and handle.calls()[path] == before + 1


def test_the_models_own_code_runs_where_more_is_asked() -> None:
    model = block("gated")
    dense = copy.deepcopy(model)
    handle = accelerate(model, break_even=1.0)
    x = torch.randn(2, 37, requires_grad=True)
    model(x).sum().backward()
    dense(x).sum().backward()
    for mine, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), dense(x))
    seen: list[Tensor] = []
    watch = model[0].down_proj
    for register in (watch.register_forward_pre_hook, watch.register_forward_hook):
        hook = register(lambda _, given, *y: seen.append(given[0]))
        run(model, x)
        hook.remove()
    assert len(seen) == 2
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(model)(x[:, None]), dense(x)[:, None])
        with FlopCounterMode(display=False) as counted:
            model(x)
    assert counted.get_total_flops() == 2 * 3 * 2 * 37 * 131
    model.train()
    run(model, x)
    model.eval()
    calls = handle.calls()
    assert calls["skipping"] == 0 and calls["original"] == 7
    run(model, x.detach())
    assert handle.calls()["skipping"] == 1
    with torch.inference_mode():
        model(x.detach())
    assert handle.calls()["skipping"] == 2


def test_training_mode_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "integrand"):
        accelerate(block("gated"), break_even=1.0)
        assert not caplog.records
        accelerate(block("gated").train(), break_even=1.0)
    assert [r.getMessage().rpartition(" ")[2] for r in caplog.records] == ["model.eval()"]


def test_a_handle_says_what_skips_and_what_is_left() -> None:
    model = nn.Sequential(block("gated")[0], block("plain")[0].half()).eval()
    handle = accelerate(model, break_even=0.5)
    run(model[0], torch.randn(1, 37))
    assert str(handle).splitlines() == [
        "1 blocks accelerated; calls: 1 skipping, 0 dense, 0 original",
        "0: gated, 131 neurons; skips at batch 1 up to 65 active",
        "left 1: must have weights of one type of float32, bfloat16",
    ]


class Wrapped(nn.Module):
    """What LoRA and quantisation put in the place of a map."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x)


def _other_map(mlp: nn.Module) -> None:
    mlp.down_proj = nn.Linear(131, 9)


def _other_act(mlp: nn.Module) -> None:
    mlp.act_fn = nn.Tanh()


def _wrap(mlp: nn.Module) -> None:
    mlp.up_proj = Wrapped(mlp.up_proj)


def _weight_norm(mlp: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(mlp.gate_proj)
    mlp.gate_proj.parametrizations.weight.original0.data.mul_(3)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _another_class(mlp: nn.Module) -> None:
    mlp.down_proj.__class__ = Doubled


def _forward(mlp: nn.Module) -> None:
    mlp.down_proj.forward = lambda h: F.linear(h, -mlp.down_proj.weight)


def _plain_tensor(mlp: nn.Module) -> None:
    mlp.down_proj.bias = None
    del mlp.down_proj.bias
    mlp.down_proj.bias = torch.ones(37)


CHANGES = (
    _other_map, _other_act, _wrap, _weight_norm, _another_class, _forward, _plain_tensor,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_block_with_another_part_runs_its_own_code(change: Callable[[nn.Module], None]) -> None:
    model = block("gated")
    handle = accelerate(model, break_even=1.0)
    x = torch.randn(1, 37)
    before = run(model, x)
    torch.manual_seed(1)
    change(model[0])
    expected = type(model[0]).forward(model[0], x)
    assert expected.shape != before.shape or not torch.allclose(expected, before)
    assert torch.equal(run(model, x), expected)
    assert handle.calls() == {"skipping": 1, "dense": 0, "original": 1}


def test_thresholds_are_not_carried_to_another_part() -> None:
    model = block("gated")
    accelerate(model, {"gate/0": torch.zeros(131)}, break_even=1.0)
    _other_act(model[0])
    with pytest.raises(Error, match="another 'act_fn'"):
        run(model, torch.randn(1, 37))


def _strided(model: nn.Module) -> None:
    for name in ("up_proj", "down_proj"):
        module = model[0].get_submodule(name)
        module.bias = nn.Parameter(torch.randn(2 * len(module.weight))[::2])


def test_a_bias_that_is_not_one_stretch_of_memory() -> None:
    x = torch.randn(1, 37)
    late, early = block("gated"), block("gated")
    handle = accelerate(late, break_even=1.0)
    for model in (late, early):
        torch.manual_seed(3)
        _strided(model)
    dense = copy.deepcopy(early)
    left = accelerate(early, break_even=1.0).left
    assert left == {"0": "has a bias that is not one stretch of memory"}
    torch.testing.assert_close(run(late, x), run(dense, x))
    late[0].down_proj.bias = nn.Parameter(torch.zeros(1).expand(37))
    dense[0].down_proj.bias = nn.Parameter(torch.zeros(37))
    torch.testing.assert_close(run(late, x), run(dense, x))
    assert handle.calls()["original"] == 2


def test_modes_stay() -> None:
    model = block("gated")
    model[0].train()
    model[0].down_proj.eval()
    modes = [m.training for m in model.modules()]
    accelerate(model, break_even=1.0)
    assert [m.training for m in model.modules()] == modes


def test_measuring_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def times(d_hidden: int, *ways: Any) -> tuple[break_even.Times, bool]:
        measured.append(d_hidden)
        return [[1.0, 2.0, 3.0, 9.0, 9.0]] * len(break_even.BATCHES), True

    monkeypatch.setattr(break_even, "_times", times)
    monkeypatch.setattr(break_even, "processor", lambda: "of test_measuring_anew")
    for anew in (True, False, True):
        handle = accelerate(block("gated"), measure_anew=anew)
        assert all(step.own for step in handle.blocks["0"].plan)
    assert measured == [131, 131]


@pytest.mark.parametrize(("act", "few"), [("relu", 4.0), ("gelu", 1.0)])
def test_a_block_that_gains_nothing_is_left_as_it_was(
    act: str, few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def times(d_hidden: int, timed: Any, former: Any) -> tuple[break_even.Times, bool]:
        former(), timed(1, None), timed(1, d_hidden)()
        # three times as fast as torch with weights laid anew, and no faster than before; what few
        # active neurons would gain is nothing without zeros
        return [[few, 5.0, 3.0, 9.0, 3.0]] * len(break_even.BATCHES), True

    monkeypatch.setattr(break_even, "_times", times)
    model = block("gated", act=act)
    before = [p.stride() for p in model.parameters()]
    handle = accelerate(model, measure_anew=True)
    assert not handle.blocks and handle.left["0"].startswith("gains nothing")
    assert [p.stride() for p in model.parameters()] == before and "forward" not in vars(model[0])
    few = 1.0
    handle = accelerate(block("gated"), measure_anew=True)
    # calls of the measurement are not the model's
    assert list(handle.blocks) == ["0"] and not any(handle.calls().values())


def test_timed_calls_take_blocks_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # two ways that read one block after each other: the second would find it in a cache
    read: list[str] = []

    def times(d_hidden: int, timed: Any, former: Any) -> tuple[break_even.Times, bool]:
        for call in (former(), timed(1, None), timed(2, None)):
            call()
        return [[1.0, 2.0, 3.0, 9.0, 9.0]] * len(break_even.BATCHES), True

    monkeypatch.setattr(break_even, "_times", times)
    monkeypatch.setattr(RowSkip, "original", lambda self, x: read.append(self.block.name))
    accelerate(nn.Sequential(block()[0], block()[0]).eval(), measure_anew=True)
    assert read == ["0", "1", "0"]


def test_compiles_without_a_break() -> None:
    model = block("gated")
    accelerate(model, break_even=1.0)
    x = torch.randn(2, 37)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, x), run(model, x))


def test_a_copied_model_uses_its_own_weights() -> None:
    model = block("gated")
    x = torch.randn(1, 37)
    accelerate(model, break_even=1.0)
    y = run(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(vars(other[0])["forward"], RowSkip)
        assert torch.equal(run(other, x), y)
        _edit(other)
        assert not torch.equal(run(other, x), y) and torch.equal(run(model, x), y)


def test_undoing_a_copy() -> None:
    model = block("gated")
    dense = copy.deepcopy(model)
    accelerate(model, break_even=1.0)
    other = copy.deepcopy(model)
    undo(other)
    assert "forward" not in vars(other[0]) and isinstance(vars(model[0])["forward"], RowSkip)
    assert all(
        torch.equal(a, b) and a.stride() == b.stride()
        for a, b in zip(other.parameters(), dense.parameters(), strict=True)
    )
    handle = accelerate(other, break_even=1.0)
    undo(other)
    handle.undo()
    x = torch.randn(1, 37)
    assert torch.equal(run(other, x), run(dense, x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 5])
def test_thresholds_leave_out_the_same_on_every_path(form: str, batch: int) -> None:
    model = block(form, act="silu" if form != "both" else "relu")
    (found,) = feed_forwards(copy.deepcopy(model))
    theta = torch.rand(131) * 0.2
    x = torch.randn(batch, 37)
    with torch.no_grad():
        a, *up = found.inner_values(x)
        a = found.act(a)
        a = torch.where(a.abs() <= theta, 0, a)
        h = a if not up else a * (found.act(up[0]) if form == "both" else up[0])
        expected = found.down(h)
    for share, path in ((1.0, "skipping"), (1e-9, "dense")):
        handle = accelerate(model, {"gate/0": theta}, break_even=share)
        torch.testing.assert_close(run(model, x), expected)
        assert handle.calls()[path] == 1
        torch.testing.assert_close(model(x).detach(), expected)
        assert handle.calls()["original"] == 1
        handle.undo()


def test_hidden_thresholds_of_a_plain_block() -> None:
    model = block("plain", act="silu")
    dense = copy.deepcopy(model)[0]
    low, high = torch.rand(131) * 0.1, torch.rand(131) * 0.2
    x = torch.randn(1, 37)
    h = dense.act_fn(dense.up_proj(x)).detach()
    for given, limit in (
        ({"hidden/0": high}, high),
        ({"gate/0": low, "hidden/0": high}, torch.maximum(low, high)),
    ):
        handle = accelerate(model, given, break_even=1.0)
        expected = dense.down_proj(torch.where(h.abs() <= limit, 0, h))
        torch.testing.assert_close(run(model, x), expected.detach())
        handle.undo()


def test_thresholds_of_another_model() -> None:
    model = block("gated")
    values = {"gate/0": torch.zeros(131)}
    with pytest.raises(DataError, match="of this model"):
        accelerate(model, Thresholds("cats", 0.5, "0" * 64, values), break_even=1.0)
    own = Thresholds("cats", 0.5, fingerprint(model), values)
    assert list(accelerate(model, own, break_even=1.0).blocks) == ["0"]


def test_refusals() -> None:
    model = block("gated")
    with pytest.raises(DataError, match="knows after it has read up"):
        accelerate(model, {"hidden/0": torch.zeros(131)})
    with pytest.raises(DataError, match="input/0"):
        accelerate(model, {"input/0.down_proj": torch.zeros(131)})
    with pytest.raises(DataError, match="one that must have weights"):
        accelerate(block().half(), {"gate/0": torch.zeros(131)})
    with pytest.raises(DataError, match="131 numbers"):
        accelerate(model, {"gate/0": torch.zeros(5)})
    with pytest.raises(Error, match="break_even"):
        accelerate(model, break_even=2.0)
    handle = accelerate(model, break_even=1.0)
    with pytest.raises(Error, match="already"):
        accelerate(model)
    handle.undo()
    with pytest.raises(Error, match="feed-forward"):
        accelerate(nn.Linear(2, 2))


class Residual(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def test_blocks_that_do_more_are_left() -> None:
    other = Residual(ig.activation("relu"), 8, 32)
    handle = accelerate(nn.Sequential(other), break_even=1.0)
    assert handle.left == {"0": "does something after its map back"} and not handle.blocks
    half = block().half()
    assert "float32, bfloat16" in accelerate(half, break_even=1.0).left["0"]


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape: dict[str, Any] = {"n_embd": 32, "n_head": 2, "n_layer": 2, "vocab_size": 64}
    return GPT2LMHeadModel(GPT2Config(**shape, n_positions=32, activation_function="relu"))


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=2, hidden_act="relu", mlp_bias=True,
    ))  # fmt: skip


def _phi3() -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(
        vocab_size=64, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, hidden_act="relu", pad_token_id=0,
    ))  # fmt: skip


@pytest.mark.parametrize("make", [_gpt2, _llama, _phi3])
def test_transformers_models_generate_the_same(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prompt = torch.arange(5)[None]
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(prompt, **options)
    handle = accelerate(model, break_even=1.0)
    assert len(handle.blocks) == 2
    assert torch.equal(model.generate(prompt, **options), expected)
    assert handle.calls()["skipping"] >= 12
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in again.state_dict().items())
    handle.undo()
    assert torch.equal(model.generate(prompt, **options), expected)


def test_up_may_overflow_where_the_growth_of_the_activation_is_not_known() -> None:
    def filled(activation: Any) -> nn.Module:
        model = nn.Sequential(GatedMLP(activation, 4, 8, True, activate_up=True)).eval()
        with torch.no_grad():
            for name, p in model[0].named_parameters():
                p.fill_(0.0 if "bias" in name else -1.0 if "gate" in name else 1.0)
        return model

    cubic = ig.derive(ig.Spec(name="cubic", function="x**3 if x > 0 else 0"))
    # act(gate) = 0, and (4e13)^3 is infinite in fp32
    model, x = filled(cubic), torch.full((1, 4), 1e13)
    dense = copy.deepcopy(model)
    handle = accelerate(model, break_even=1.0)
    assert bool(run(dense, x).isnan().all()) and bool(run(model, x).isnan().all())
    assert not handle.blocks and "growth is not known" in handle.left["0"]
    # ReLU's is known, and so is that of its square
    for act, value, skips in (
        (ig.activation("relu"), 1e13, 1),
        (ig.activation("relu2"), 1e13, 1),
        (ig.activation("relu2"), 1e19, 0),
    ):
        model, x = filled(act), torch.full((1, 4), value)
        dense = copy.deepcopy(model)
        handle = accelerate(model, break_even=1.0)
        assert torch.equal(run(model, x).isnan(), run(dense, x).isnan())
        assert handle.calls()["skipping"] == skips
    # a slope that overflows before a square would
    model = filled(ig.activation("relu"))
    model[0].act_fn = nn.LeakyReLU(1e20)
    (steep,) = accelerate(model, break_even=1.0).blocks.values()
    assert not steep.known().limit >= 0  # NaN
