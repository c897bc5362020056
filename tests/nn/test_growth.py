import json
import logging
import math

import pytest
import torch

import integrand as ig
from integrand.models import Decoder, DecoderConfig


def decoder() -> Decoder:
    config = DecoderConfig(
        vocab_size=16, d_model=8, d_hidden=12, layers=2, heads=2, kv_heads=1, gated=False
    )
    return Decoder(config, ig.activation("xielu"))


def grow(layer: torch.nn.Module, raw: float) -> None:
    with torch.no_grad():
        layer.alpha_p.fill_(raw)


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.WARNING, logger="integrand")
    return lambda: caplog.messages


def test_the_published_bad_example_is_warned_of_once(logged) -> None:
    model = decoder()
    monitor = ig.nn.GrowthMonitor(model)
    assert not [row for row in monitor.check(0) if row.exceeded]
    grow(model.model.layers[0].mlp.act_fn, 166.0)
    for step in (100, 200):
        rows = monitor.check(step)
    assert [row.name for row in rows if row.exceeded] == ["model.layers.0.mlp.act_fn.alpha_p"]
    assert len(logged()) == 1
    for part in ("layers.0.mlp.act_fn.alpha_p is 166 at step 100", "limit of 10", "declared 0.8"):
        assert part in logged()[0]


def test_rows_tell_now_declared_and_start_in_order_of_depth() -> None:
    model = decoder()
    grow(model.model.layers[1].mlp.act_fn, 3.0)
    monitor = ig.nn.GrowthMonitor(model)
    grow(model.model.layers[1].mlp.act_fn, 5.0)
    rows = monitor.check()
    assert [row.parameter for row in rows] == ["alpha_p", "alpha_n"] * 2
    assert rows[2].start == pytest.approx(math.log1p(math.exp(3.0)))
    assert rows[2].value == pytest.approx(math.log1p(math.exp(5.0)))
    assert (rows[2].initial, rows[2].limit) == (0.8, 10.0)


def test_limits_may_be_chosen(logged) -> None:
    layer = ig.activation("xielu").module()
    grow(layer, 12.0)
    assert ig.nn.GrowthMonitor(layer, factor=20.0).check()[0].limit == 20.0
    assert not logged()
    ig.nn.GrowthMonitor(layer, limits={"alpha_p": 11.0}).check()
    assert "alpha_p is 12" in logged()[0]


def test_the_largest_channel_counts_and_nan_is_past_every_limit(logged) -> None:
    layer = ig.activation("xielu").module(shape=(3,))
    monitor = ig.nn.GrowthMonitor(layer)
    with torch.no_grad():
        layer.alpha_p[1] = 40.0
        layer.alpha_n[2] = math.nan
    rows = monitor.check()
    assert rows[0].value == 40.0
    assert rows[1].exceeded
    assert len(logged()) == 2


@pytest.mark.parametrize(("raw", "lost"), [(166.0, 0.5), (0.2031, 2**-11)])
def test_bf16_storage_is_warned_of_with_what_it_loses(raw, lost, logged) -> None:
    layer = ig.activation("xielu").module(dtype=torch.bfloat16)
    grow(layer, raw)
    before = layer.alpha_p.detach().clone()
    assert torch.equal(before + 0.99 * lost, before)
    assert not torch.equal(before + 1.01 * lost, before)
    monitor = ig.nn.GrowthMonitor(layer, factor=1000.0)
    monitor.check(7)
    monitor.check(8)
    assert len(logged()) == 2  # one per parameter
    assert f"changes below {lost:.2g} are lost at step 7" in logged()[0]


def test_a_resumed_run_keeps_its_start_and_does_not_repeat_itself(logged) -> None:
    layer = ig.activation("xielu").module()
    monitor = ig.nn.GrowthMonitor(layer)
    grow(layer, 50.0)
    monitor.check()
    resumed = ig.nn.GrowthMonitor(layer)
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    rows = resumed.check()
    assert rows[0].start == pytest.approx(0.8)
    assert len(logged()) == 1


def test_a_model_without_activations_has_no_rows_and_says_so(logged) -> None:
    assert ig.nn.GrowthMonitor(torch.nn.Linear(2, 2)).check() == []
    assert "no integrand activation in this model" in logged()[0]


def test_the_monitor_prints_what_it_watches() -> None:
    monitor = ig.nn.GrowthMonitor(decoder(), limits={"alpha_p": 40.0})
    shown = "GrowthMonitor(4 parameters, 0 warned of, factor=10, limits={'alpha_p': 40.0})"
    assert repr(monitor) == shown
