"""Toys trained by hand: the table, the gradient, the tasks, the score."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from integrand.errors import Error
from integrand.search.candidate import Candidate
from integrand.search.profile import Profile, profile
from integrand.search.synthetic import Synthetic, log_errors, synthetic_rung
from integrand.search.tabulated import Tabulated
from integrand.search.toy_tasks import tasks
from integrand.search.toy_training import Toy, _Nets, errors
from integrand.spec import Spec, row

TOY = Toy(steps=40, seeds=1)


def function(text: str) -> Spec:
    return Spec(name="f", function=text)


def looked_up(p: Profile, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    f, g = x.clone(), torch.empty_like(x)
    Tabulated(p)(f, g)
    return f, g


@pytest.mark.parametrize("name", ["xielu", "relu2", "gelu"])
def test_the_table_is_as_good_as_its_spacing(name: str) -> None:
    p = profile(row(name).spec)
    x = torch.linspace(-30, 30, 5001)
    f, g = looked_up(p, x)
    points = x.double().numpy()
    # half the spacing, and the rounding of the place to fp32 among 2**16 points
    off = 2.0**-15 * (1 + np.abs(points)) ** 2
    near = np.stack([p.slope(points + k * off) for k in (-1, 0, 1)])
    assert (np.abs(f.numpy() - p.value(points)) <= off * np.abs(near).max(0) + 1e-6).all()
    assert (g.numpy() <= near.max(0) + 1e-6).all() and (g.numpy() >= near.min(0) - 1e-6).all()


def test_the_table_takes_any_number_and_refuses_what_fp32_cannot_hold() -> None:
    p = profile(function("x**3"))
    f, _ = looked_up(p, torch.tensor([torch.nan, torch.inf, -1e30, 1e30, 1e4]))
    assert f[0].abs() < 1e-9 and f[1].abs() < 1e-9 and f[2] == -f[3] and f[3] == f[4] > 9e11
    with pytest.raises(Error, match="finite"):
        Tabulated(profile(function("x**10")))


def test_the_gradient_by_hand_is_that_of_autograd() -> None:
    def silu(x: torch.Tensor, slope: torch.Tensor) -> None:
        s = torch.sigmoid(x)
        slope.copy_(s * (1 + x * (1 - s)))
        x.mul_(s)

    for name in ("polynomial", "recall"):
        task = tasks()[name]
        net = _Nets(TOY, task, silu, gain=1.3)  # pyrefly: ignore
        leaves = [t.clone().requires_grad_() for layer in net.layers for t in layer]
        net.step(0)
        h = task.x.expand(net.count, *task.x.shape)
        for weight, bias in zip(leaves[:-2:2], leaves[1:-2:2], strict=True):
            h = F.silu(torch.baddbmm(bias, h, weight))
        out = torch.baddbmm(leaves[-1], h, leaves[-2])
        found = torch.autograd.grad(net.loss(out, task.y).sum(), leaves)
        own = [t for layer in net.gradients for t in layer]
        for a, b in zip(own, found, strict=True):
            # fp32 sums of a few hundred terms
            assert (a - b).norm() <= 1e-5 * b.norm()


def test_weights_start_equal_but_for_the_gain() -> None:
    act = Tabulated(profile(row("relu").spec))
    a, b = (_Nets(TOY, tasks()["parity"], act, gain) for gain in (1.0, 2.0))
    assert torch.equal(a.layers[0][0], b.layers[0][0])
    assert all(torch.equal(2 * p[0], q[0]) for p, q in zip(a.layers[1:], b.layers[1:], strict=True))


def test_tests_lie_outside_of_what_was_trained_on() -> None:
    found = tasks()
    for name in ("polynomial", "harmonics"):
        task = found[name]
        assert (task.test_x.abs().amax(1) > task.x.abs().max()).all()
    parity = found["parity"]
    seen = {tuple(r) for r in parity.x.tolist()}
    assert not seen & {tuple(r) for r in parity.test_x.tolist()}
    for task in found.values():
        assert task.x.square().mean() == pytest.approx(1, rel=0.1)


def test_the_score_is_0_for_the_reference_and_says_that_lines_cannot_bend() -> None:
    rung = Synthetic(TOY)
    silu, line = (rung(Candidate(row(n).spec, ())) for n in ("silu", "identity"))
    assert set(silu.values()) == {0.0}
    assert line["score"] > 0.1 and set(line) == {"score", *tasks()}
    assert rung(Candidate(row("identity").spec, ())) == line


def test_equal_gradients_and_functions_score_alike() -> None:
    declared = log_errors(function("x*sigmoid(x)"), TOY)
    slope = Spec(name="g", gradient="sigmoid(x) + x*sigmoid(x)*sigmoid(-x)")
    assert log_errors(slope, TOY) == pytest.approx(declared, abs=1e-3)


def test_a_run_that_diverges_is_an_error_only_where_all_do() -> None:
    act = Tabulated(profile(row("relu2").spec))
    off = errors(Toy(steps=5, seeds=1, rates=(1e-3, 1e30)), tasks()["parity"], act, 1.0)
    assert torch.isfinite(off[0]).all() and not torch.isfinite(off[1]).any()
    with pytest.raises(Error, match="one rate at least"):
        log_errors(row("relu2").spec, Toy(steps=5, seeds=1, rates=(1e30,)))


def test_the_rung_goes_to_a_child_process() -> None:
    assert pickle.loads(pickle.dumps(synthetic_rung())) == synthetic_rung()
