import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from integrand.activation import activation
from integrand.errors import DataError, Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.sparsity import feed_forwards
from integrand.sparsity.calibration import Histogram, Method, calibrate
from integrand.sparsity.thresholds import (
    Thresholds,
    applying,
    fingerprint,
    load_thresholds,
    price,
)

ROWS = torch.randint(0, 32, (12, 17), generator=torch.Generator().manual_seed(3))


def decoder(gated: bool = True, act: str = "silu", both: bool = False) -> Decoder:
    config = DecoderConfig(
        **{"vocab_size": 32, "d_model": 16, "d_hidden": 24, "layers": 2, "heads": 2, "kv_heads": 2},
        **{"gated": gated, "activate_up": both, "init_std": 0.3},
    )
    return Decoder(config, activation(act)).initialise(0)


def entering(model: Decoder, names: list[str]) -> dict[str, Tensor]:
    """What enters the modules, (tokens, width), of the model as it is."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(n).register_forward_pre_hook(
            lambda _, given, n=n: seen.update({n: given[0].flatten(0, -2)})
        )
        for n in names
    ]
    with torch.no_grad():
        model.eval()(ROWS[:, :-1])
    for hook in hooks:
        hook.remove()
    return seen


def gate_and_up(model: Decoder, layer: int) -> tuple[Tensor, Tensor]:
    mlp = model.model.layers[layer].mlp
    x = entering(model, [f"model.layers.{layer}.mlp"])[f"model.layers.{layer}.mlp"]
    with torch.no_grad():
        return mlp.act_fn(mlp.gate_proj(x)).abs(), mlp.up_proj(x).abs()


def order_statistic(scores: Tensor, share: float) -> float:
    """The smallest score up to which `share` of all lie."""
    flat = scores.flatten().sort().values
    return float(flat[max(0, -int(-share * len(flat) // 1) - 1)])


def close(found: Tensor, exact: Tensor | float) -> None:
    ratio = found / exact
    # a bin is 2^-8 wide, the channel's weight is applied in fp32
    assert float(ratio.min()) >= 1 - 2.0**-21 and float(ratio.max()) <= 1 + 2.0**-8 + 2.0**-21


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cats_is_the_quantile_of_the_gate(share: float) -> None:
    model = decoder()
    found = calibrate(model, ROWS, "cats", share)
    for layer in range(2):
        gate, _ = gate_and_up(model, layer)
        theta = found.values[f"gate/model.layers.{layer}.mlp"]
        assert theta.shape == (24,) and bool((theta == theta[0]).all())
        close(theta, order_statistic(gate, share))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_chess_divides_its_quantile_by_the_mean_of_up(share: float) -> None:
    model = decoder()
    found = calibrate(model, ROWS, "chess", share)
    for layer in range(2):
        gate, up = gate_and_up(model, layer)
        weight = up.mean(0)
        close(
            found.values[f"gate/model.layers.{layer}.mlp"],
            order_statistic(gate * weight, share) / weight,
        )


@pytest.mark.parametrize("method", ["teal", "wina"])
def test_inputs_of_every_map_of_a_layer(method: Method) -> None:
    model = decoder()
    found = calibrate(model, ROWS, method, 0.4)
    names = [f"model.layers.{i}.{part}_proj" for i in range(2) for part in
             ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up",
              "mlp.down")]  # fmt: skip
    assert set(found.values) == {f"input/{name}" for name in names}
    for name, x in entering(model, names).items():
        weight = torch.ones(x.shape[1])
        if method == "wina":
            weight = model.get_submodule(name).weight.detach().norm(dim=0)
        close(found.values[f"input/{name}"], order_statistic(x.abs() * weight, 0.4) / weight)


@pytest.mark.parametrize(("gated", "act", "both"), [(True, "silu", False), (False, "relu2", False),
                                                    (True, "relu", True)])  # fmt: skip
def test_cett_loses_the_share_of_the_output_that_was_asked_for(
    gated: bool, act: str, both: bool
) -> None:
    model = decoder(gated, act, both)
    found = calibrate(model, ROWS, "cett", 0.2)
    for block in feed_forwards(model):
        h = entering(model, [f"{block.name}.down_proj"])[f"{block.name}.down_proj"]
        weight = block.matrices()[2].weight.detach()
        theta = found.values[f"hidden/{block.name}"]

        def cett(theta: Tensor, h: Tensor = h, weight: Tensor = weight) -> float:
            lost = torch.where(h.abs() <= theta, h, 0) @ weight.t()
            whole = (h @ weight.t()).norm(dim=1)
            return float((lost.norm(dim=1)[whole > 0] / whole[whole > 0]).mean())

        assert cett(theta) <= 0.2 + 1e-5
        # the next candidate is 0.8 % up; a step further more is lost than was asked for
        larger = next(f for f in (1.01, 1.02, 1.05, 1.1, 1.2) if cett(theta * f) > cett(theta))
        assert cett(theta * larger) > 0.19


@pytest.mark.parametrize("method", ["cett", "cats", "chess", "teal", "wina"])
def test_the_model_runs_with_them_and_target_0_changes_nothing(method: Method) -> None:
    model = decoder()
    logits = model(ROWS[:, :-1])
    with applying(model, calibrate(model, ROWS, method, 0.0)):
        # CETT is held to 1e-6 of a block's output
        allowed = 1e-4 * float(logits.detach().abs().max()) if method == "cett" else 0.0
        assert (model(ROWS[:, :-1]) - logits).abs().max() <= allowed
    found = price(model, calibrate(model, ROWS, method, 0.3), ROWS)
    if method != "cett":
        # the first block's own input is that of the dense model: its share is the target
        first = next(iter(found.sparsity))
        count = 12 * 16 * (24 if method in ("cats", "chess") else 16)
        assert abs(found.sparsity[first] - 0.3) < 0.02 + 1 / count
    assert found.perplexity_sparse != found.perplexity
    assert torch.equal(model(ROWS[:, :-1]), logits)  # the hooks are gone


def test_what_is_left_out_is_zero_and_the_rest_untouched() -> None:
    model = decoder()
    found = calibrate(model, ROWS, "chess", 0.5)
    name = "model.layers.0.mlp"
    before = entering(model, [f"{name}.down_proj"])[f"{name}.down_proj"]
    gate, _ = gate_and_up(model, 0)
    with applying(model, found):
        after = entering(model, [f"{name}.down_proj"])[f"{name}.down_proj"]
    out = gate <= found.values[f"gate/{name}"]
    assert torch.equal(after, before.masked_fill(out, 0))
    assert 0.4 < float(out.float().mean()) < 0.6


def test_a_file_gives_the_same_thresholds(tmp_path: Path) -> None:
    model = decoder()
    found = calibrate(model, ROWS, "wina", 0.3)
    found.save(tmp_path / "wina.safetensors")
    again = load_thresholds(tmp_path / "wina.safetensors", model)
    assert dataclasses.replace(again, values={}) == dataclasses.replace(found, values={})
    assert again.values.keys() == found.values.keys()
    assert all(torch.equal(again.values[n], v) for n, v in found.values.items())


def other_model(found: Thresholds) -> Thresholds:
    return dataclasses.replace(found, model=fingerprint(decoder(act="gelu").half()))


def wrong_shape(found: Thresholds) -> Thresholds:
    return dataclasses.replace(found, values={n: v[1:] for n, v in found.values.items()})


def unknown_block(found: Thresholds) -> Thresholds:
    return dataclasses.replace(found, values={f"{n}x": v for n, v in found.values.items()})


def negative(found: Thresholds) -> Thresholds:
    return dataclasses.replace(found, values={n: -v for n, v in found.values.items()})


@pytest.mark.parametrize("damage", [other_model, wrong_shape, unknown_block, negative])
def test_a_file_that_does_not_fit_is_refused(
    damage: Callable[[Thresholds], Thresholds], tmp_path: Path
) -> None:
    model = decoder()
    damage(calibrate(model, ROWS, "cats", 0.3)).save(tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="calibrate them anew"):
        load_thresholds(tmp_path / "x.safetensors", model)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = decoder()
    with pytest.raises(DataError, match="must be a safetensors file"):
        load_thresholds(tmp_path / "none", model)
    (tmp_path / "pickle").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(DataError, match="must be a safetensors file"):
        load_thresholds(tmp_path / "pickle", model)
    save_file({"a": torch.ones(1)}, tmp_path / "weights")
    with pytest.raises(DataError, match="got the metadata"):
        load_thresholds(tmp_path / "weights", model)
    metadata = {"format": "integrand thresholds 1", "method": "cats", "model": ""}
    save_file({"a": torch.ones(1)}, tmp_path / "text", metadata | {"target": "abc"})
    with pytest.raises(DataError, match="must hold a number as target, got 'abc'"):
        load_thresholds(tmp_path / "text", model)


def test_a_histogram_quantile_has_the_share_below_it() -> None:
    scores = torch.randn(5000, generator=torch.Generator().manual_seed(0)).abs().square()
    scores[:1000] = 0
    histogram = Histogram()
    for part in scores.split(700):
        histogram.add(part)
    assert histogram.quantile(0.0) == 0
    for share in (0.1, 0.2, 0.5, 0.99):
        exact = order_statistic(scores, share)
        found = histogram.quantile(share)
        assert exact <= found <= exact * (1 + 2.0**-8) + 2.0**-133
        assert float((scores <= found).float().mean()) >= share


def test_bad_calls() -> None:
    bad: Any = "magic"
    with pytest.raises(Error, match="method must be one of cett, cats, chess, teal, wina"):
        calibrate(decoder(), ROWS, bad, 0.5)
    with pytest.raises(Error, match="target must be"):
        calibrate(decoder(), ROWS, "cats", 1.0)


def test_dead_channels_are_left_out() -> None:
    model = decoder()
    down: nn.Linear = model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        down.weight[:, 3] = 0
    theta = calibrate(model, ROWS, "cett", 0.1).values["hidden/model.layers.0.mlp"]
    assert theta[3] == torch.inf and bool(theta[:3].isfinite().all())


def test_thresholds_are_printed_in_a_line_per_block() -> None:
    limits = Thresholds("cett", 0.2, "0123456789", {"gate/0": torch.tensor([1.0, 2.0, 4.0])})
    said = "thresholds by cett, target 0.2, of model 01234567\ngate/0: 3 channels, median 2"
    assert repr(limits) == said
