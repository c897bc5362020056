import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import Decoder
from integrand.sparsity import feed_forwards
from integrand.sparsity.penalty import Penalised, Stage, penalise, progressive, remove_penalty
from integrand.train.activations import chosen
from integrand.train.batches import Windows
from integrand.train.config import TrainConfig
from integrand.train.evaluate import held_out_windows
from integrand.train.loop import build, summed_loss, train
from integrand.train.runs import load_run
from integrand.train.tokens import TokenData

STAGES = (Stage(0.1, 0.5), Stage(0.4, 2.0), Stage(0.9, 3.0))


def test_the_schedule_is_that_of_the_paper() -> None:
    """sin(u - pi/2) = -cos u: the published eta is (1 - cos u) / 2."""
    for step in range(101):
        t = step / 100
        if t <= 0.1:
            expected = 0.5
        elif t <= 0.4:
            expected = 0.5 + 1.5 * (1 - math.cos(math.pi * (t - 0.1) / 0.3)) / 2
        elif t <= 0.9:
            expected = 2.0 + 1.0 * (1 - math.cos(math.pi * (t - 0.4) / 0.5)) / 2
        else:
            expected = 3.0
        assert abs(progressive(t, STAGES) - expected) <= 4 * 2.0**-52 * 3


def test_the_unit_of_time_does_not_matter() -> None:
    in_steps = [Stage(400 * end, rate) for end, rate in STAGES]
    for step in range(0, 400, 7):
        assert progressive(step, in_steps) == pytest.approx(progressive(step / 400, STAGES), 1e-13)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def decoder(config: TrainConfig, gated: bool, both: bool) -> Decoder:
    model = dataclasses.replace(config.model, gated=gated, activate_up=both, layers=1)
    return Decoder(model, activation("relu")).initialise(0).double()


def penalty_in_the_open(model: Decoder, tokens: Tensor, rate: float) -> Tensor:
    """lambda * sum over layers of the mean over tokens of ||h||_1, as part of the loss."""
    seen: list[Tensor] = []
    hooks = [
        b.down.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for b in feed_forwards(model)
    ]
    loss = summed_loss(model, tokens[:, :-1], tokens[:, 1:])
    for hook in hooks:
        hook.remove()
    return loss + rate * sum(h.abs().sum(-1).mean() for h in seen)


@pytest.mark.parametrize(
    ("gated", "both", "compiled"),
    [(False, False, False), (True, False, False), (True, True, False), (True, False, True)],
)
def test_gradients_are_those_of_the_loss_with_the_penalty(
    run_config: TrainConfig, gated: bool, both: bool, compiled: bool
) -> None:
    tokens = torch.randint(0, 280, (3, 9), generator=torch.Generator().manual_seed(1))
    model = decoder(run_config, gated, both)
    expected = gradients(model, penalty_in_the_open(model, tokens, 2.5))
    plain = summed_loss(model, tokens[:, :-1], tokens[:, 1:])
    assert len(penalise(model, [Stage(1.0, 2.5)])) == 1
    step = torch.compile(summed_loss, backend="aot_eager") if compiled else summed_loss
    loss = step(model, tokens[:, :-1], tokens[:, 1:])
    # the language model's loss alone is reported
    assert loss.item() == pytest.approx(plain.item(), rel=1e-14)
    found = gradients(model, loss)
    for name, gradient in expected.items():
        # lambda is kept in fp32; 2.5 and its division by 24 tokens are within half an ulp
        bound = 2.0**-23 * gradient.abs().max()
        assert (found[name] - gradient).abs().max() <= bound, name


def test_another_rate_is_not_compiled_anew(run_config: TrainConfig) -> None:
    model = decoder(run_config, True, False)
    penalties = penalise(model, STAGES)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    step = torch.compile(summed_loss, backend=backend)
    tokens = torch.randint(0, 280, (2, 9))
    seen = []
    for at in (0, 30, 60, 100):
        for penalty in penalties:
            penalty.at_step(at, 100)
        seen.append(gradients(model, step(model, tokens[:, :-1], tokens[:, 1:])))
    assert len(graphs) == 1
    name = "model.layers.0.mlp.gate_proj.weight"
    assert len({g[name].abs().sum().item() for g in seen}) == 4


def test_the_parts_of_a_step_add_up(run_config: TrainConfig) -> None:
    tokens = torch.randint(0, 280, (4, 9), generator=torch.Generator().manual_seed(1))
    whole, halves = (decoder(run_config, False, False) for _ in range(2))
    penalise(whole, [Stage(1.0, 2.5)])
    penalise(halves, [Stage(1.0, 2.5)], parts=2)
    summed_loss(whole, tokens[:, :-1], tokens[:, 1:]).backward()
    for part in tokens.chunk(2):
        summed_loss(halves, part[:, :-1], part[:, 1:]).backward()
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-13 * float(a.grad.abs().max()))


def test_evaluation_and_checkpoints_do_not_know_of_it(run_config: TrainConfig) -> None:
    model = decoder(run_config, False, False)
    names = set(model.state_dict())
    penalties = penalise(model, STAGES)
    assert set(model.state_dict()) == names
    h = torch.randn(3, 5, requires_grad=True)
    assert penalties[0].eval()(h) is h
    assert [b.form for b in feed_forwards(model)] == ["plain"]


def test_a_second_penalty_is_refused_and_the_first_can_be_removed(run_config: TrainConfig) -> None:
    tokens = torch.randint(0, 280, (2, 9), generator=torch.Generator().manual_seed(1))
    model = decoder(run_config, True, False)

    def found() -> dict[str, Tensor]:
        return gradients(model, summed_loss(model, tokens[:, :-1], tokens[:, 1:]))

    plain = found()
    penalise(model, [Stage(1.0, 2.5)])
    once = found()
    with pytest.raises(Error, match="call remove_penalty"):
        penalise(model, [Stage(1.0, 2.5)])
    assert all(torch.equal(g, once[name]) for name, g in found().items())
    remove_penalty(model)
    assert all(torch.equal(g, plain[name]) for name, g in found().items())
    penalise(model, [Stage(1.0, 2.5)])
    assert all(torch.equal(g, once[name]) for name, g in found().items())
    assert not all(torch.equal(once[name], g) for name, g in plain.items())


def test_a_copy_has_a_penalty_of_its_own(run_config: TrainConfig) -> None:
    tokens = torch.randint(0, 280, (2, 9), generator=torch.Generator().manual_seed(1))
    model = decoder(run_config, False, False)
    plain = gradients(model, summed_loss(model, tokens[:, :-1], tokens[:, 1:]))
    (penalty,) = penalise(model, [Stage(1.0, 2.5)])
    pushed = gradients(model, summed_loss(model, tokens[:, :-1], tokens[:, 1:]))
    copied = copy.deepcopy(model)
    penalty.rate.zero_()
    for each, expected in ((copied, pushed), (model, plain)):
        got = gradients(each, summed_loss(each, tokens[:, :-1], tokens[:, 1:]))
        assert all(torch.equal(got[name], g) for name, g in expected.items())
    remove_penalty(model)
    assert len([m for m in copied.modules() if hasattr(m, "at_step")]) == 1


def share_of_zeros(model: Decoder, tokens: TokenData) -> float:
    zeros: list[float] = []
    for block in feed_forwards(model):
        block.down.register_forward_pre_hook(
            lambda _, given: zeros.append(float((given[0] == 0).float().mean()))
        )
    rows = held_out_windows(Windows(tokens.held_out, 16), 16)
    with torch.no_grad():
        model(rows)
    return sum(zeros) / len(zeros)


def test_a_run_with_it_is_sparser_resumes_and_loads_as_the_plain_activation(
    run_config: TrainConfig, run_tokens: TokenData, tmp_path: Path
) -> None:
    act = Penalised(activation("relu"), (Stage(0.2, 0.0), Stage(0.8, 0.3)))
    config = dataclasses.replace(run_config, activation=act.name, accumulate=2)

    def stop(step: int, loss: float) -> None:
        if step == 12:
            raise InterruptedError

    given: dict[str, Any] = {"activation": act, "tokens": run_tokens, "quiet": True}
    record = train(config, tmp_path / "whole", **given)
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "stopped", on_step=stop, **given)
    assert train(config, tmp_path / "stopped", **given)["held_out"] == record["held_out"]
    plain = dataclasses.replace(config, activation="relu")
    control = train(plain, tmp_path / "plain", tokens=run_tokens, quiet=True)
    assert control["held_out"][0] == record["held_out"][0]
    pushed, free = (
        share_of_zeros(load_run(tmp_path / name), run_tokens) for name in ("whole", "plain")
    )
    assert pushed > free + 0.05


def test_a_rule_of_the_config_does_not_lose_it(run_config: TrainConfig) -> None:
    act = Penalised(activation("relu"), (Stage(1.0, 0.1),))
    per_channel = dataclasses.replace(run_config, activation_per_channel=True)
    assert "model.layers.0.mlp.down_proj.penalty" in dict(
        build(per_channel, chosen(per_channel, act)).named_modules()
    )
    fixed = dataclasses.replace(run_config, activation_fixed=("alpha_p",))
    with pytest.raises(Error, match="no declaration"):
        chosen(fixed, Penalised(activation("xielu"), (Stage(1.0, 0.1),)))


@pytest.mark.parametrize(
    "stages",
    [(), (Stage(0.5, 0.1), Stage(0.5, 0.2)), (Stage(0.5, 0.2), Stage(0.6, 0.1)), (Stage(1, -1.0),)],
)
def test_stages_that_are_no_schedule_are_refused(stages: tuple[Stage, ...]) -> None:
    with pytest.raises(Error, match="stages of a penalty"):
        Penalised(activation("relu"), stages)
