import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import Decoder
from integrand.nn.mlp import MLP, GatedMLP
from integrand.sparsity import feed_forwards
from integrand.sparsity.switching import Stochastic, Switched, draws
from integrand.train.batches import Windows
from integrand.train.config import TrainConfig
from integrand.train.evaluate import evaluate, held_out_windows
from integrand.train.loop import autocast, train
from integrand.train.runs import load_run
from integrand.train.tokens import TokenData


def test_the_switch_is_at_its_share_of_the_steps() -> None:
    layer = Switched("silu", "relu", 0.9).module()
    x = torch.linspace(-3, 3, 31)
    for step in range(20):
        layer.at_step(step, 20)
        expected = F.relu(x) if step >= 18 else F.silu(x)
        torch.testing.assert_close(layer(x), expected, rtol=4 * 2.0**-23, atol=0)


def test_draws_are_uniform_and_independent_of_place_value_and_step() -> None:
    x = -torch.rand(400, 500, generator=torch.Generator().manual_seed(0))
    layer = Stochastic(0.7).module()
    uniform = []
    for step in range(3):
        layer.at_step(step, 100)
        uniform.append(draws(x, layer.key))
    n = x.numel()
    for u in uniform:
        assert u.min() >= 0 and u.max() < 1
        # 20 bins of n / 20: chi-squared with 19 degrees of freedom is below 54 but once in 30,000
        counts = torch.histc(u, 20, 0, 1)
        assert float(((counts - n / 20) ** 2 / (n / 20)).sum()) < 54
    # correlations of independent numbers are normal with deviation 1 / sqrt(n)
    pairs = [(uniform[0], uniform[1]), (uniform[1], uniform[2]), (uniform[0], x)]
    pairs += [(uniform[0][:, 1:], uniform[0][:, :-1]), (uniform[0][1:], uniform[0][:-1])]
    for a, b in pairs:
        both = torch.stack([a.flatten(), b.flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 4.5 / math.sqrt(a.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_below_0_it_is_silu_with_the_probability_and_0_otherwise(dtype: torch.dtype) -> None:
    layer = Stochastic(0.7, at=0.95).module()
    layer.at_step(3, 100)
    x = torch.randn(300, 400, dtype=dtype, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    negative = x < 0
    assert torch.equal(y[~negative], x[~negative])
    taken = y[negative] != 0
    assert torch.equal(y[negative][taken], F.silu(x)[negative][taken])
    n = taken.numel()
    assert abs(float(taken.double().mean()) - 0.7) < 4.5 * math.sqrt(0.7 * 0.3 / n)
    for other in (layer.eval(), Stochastic(0.0).module()):
        assert torch.equal(other(x), F.relu(x))
    layer.train().at_step(95, 100)
    assert torch.equal(layer(x), F.relu(x))


@pytest.mark.parametrize("block", [MLP, GatedMLP])
def test_recomputing_draws_the_same(block: Any) -> None:
    torch.manual_seed(0)
    blocks = [block(Stochastic(0.5), 16, 32, recompute=again) for again in (True, False)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    x = torch.randn(5, 16)
    grads = []
    for each in blocks:
        each.act_fn.at_step(7, 100)
        each(x).square().sum().backward()
        grads.append([p.grad for p in each.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_compiled_it_draws_the_same_and_is_compiled_anew_once() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    eager, layer = Stochastic(0.5, at=0.5).module(), Stochastic(0.5, at=0.5).module()
    compiled = torch.compile(layer, backend=backend)
    x = torch.randn(6, 7)
    for step in range(6):
        for each in (eager, layer):
            each.at_step(step, 6)
        assert torch.equal(compiled(x), eager(x))
    assert len(graphs) == 2


@pytest.mark.parametrize("act", [Switched("silu", "relu", 0.6), Stochastic(0.7, 0.6)])
def test_a_run_resumes_bitwise_and_ends_as_a_relu_model(
    act: Any, run_config: TrainConfig, run_tokens: TokenData, tmp_path: Path
) -> None:
    config = dataclasses.replace(run_config, activation=act.name)
    given: dict[str, Any] = {"activation": act, "tokens": run_tokens, "quiet": True}

    def stop(step: int, loss: float) -> None:
        if step == 9:
            raise InterruptedError

    record = train(config, tmp_path / "whole", **given)
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "stopped", on_step=stop, **given)
    assert train(config, tmp_path / "stopped", **given)["held_out"] == record["held_out"]
    model = load_run(tmp_path / "whole")
    assert isinstance(model, Decoder)
    assert {b.act.spec.name for b in feed_forwards(model)} == {"relu"}
    rows = held_out_windows(Windows(run_tokens.held_out, config.context), config.eval_sequences)
    cast = autocast(config, torch.device("cpu"))
    bytes_ = torch.from_numpy(run_tokens.token_bytes)
    assert evaluate(model, rows, bytes_, config.batch_size, cast)[0] == record["loss"]


def test_names_say_everything() -> None:
    acts = [Switched(), Switched(at=0.8), Switched("gelu"), Stochastic(), Stochastic(0.5)]
    acts += [Stochastic(at=0.9), Stochastic(seed=1)]
    assert len({act.name for act in acts}) == len(acts)


@pytest.mark.parametrize("act", [Switched(at=0.98), Stochastic(at=0.98)])
def test_a_run_that_would_end_before_the_switch_is_refused(
    act: Any, run_config: TrainConfig, run_tokens: TokenData, tmp_path: Path
) -> None:
    """Its loss would be that of a model that load_run does not give."""
    config = dataclasses.replace(run_config, activation=act.name, steps=20)
    with pytest.raises(Error, match=r"last of 20 steps ends, got a switch at 0\.98"):
        train(config, tmp_path, activation=act, tokens=run_tokens, quiet=True)
    layer = act.module()
    layer.at_step(49, 50)
    assert layer.switched


@pytest.mark.parametrize("at", [1.0, 1.5, -0.1, math.nan])
@pytest.mark.parametrize("kind", [Switched, Stochastic])
def test_a_share_that_never_comes_is_refused(kind: Any, at: float) -> None:
    with pytest.raises(Error, match="at must be at least 0 and below 1, got"):
        kind(at=at)


def test_refusals() -> None:
    with pytest.raises(Error, match="no parameters, got 'xielu'"):
        Switched("xielu")
    with pytest.raises(Error, match="p must be between 0 and 1, got 1"):
        Stochastic(1.5)
    assert activation("relu").spec == Stochastic().spec
