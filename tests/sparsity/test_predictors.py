import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from integrand.activation import activation
from integrand.errors import DataError, Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.sparsity import feed_forwards, fitting
from integrand.sparsity import predictors as predictors_module
from integrand.sparsity.calibration import calibrate
from integrand.sparsity.fitting import fit
from integrand.sparsity.predictors import (
    Assessment,
    Predictor,
    Predictors,
    assess,
    enabled,
    load_predictors,
    predicting,
)
from integrand.sparsity.thresholds import fingerprint

ROWS = torch.randint(0, 32, (40, 33), generator=torch.Generator().manual_seed(3))


def decoder(gated: bool = True, act: str = "relu", both: bool = False, planted: int = 0) -> Decoder:
    """With `planted`, the gate is of that rank, and most neurons are never active."""
    config = DecoderConfig(
        **{"vocab_size": 32, "d_model": 32, "d_hidden": 48, "layers": 2, "heads": 2, "kv_heads": 2},
        **{"gated": gated, "activate_up": both, "init_std": 0.3},
    )
    model = Decoder(config, activation(act)).initialise(0)
    if planted:
        for layer in model.model.layers:
            gate = (layer.mlp.gate_proj if gated else layer.mlp.up_proj).weight
            with torch.no_grad():
                u, s, v = torch.linalg.svd(gate, full_matrices=False)
                gate.copy_((u[:, :planted] * s[:planted]) @ v[:planted])
    return model


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("method", "recall"), [("svd", 0.999), ("trained", 0.98)])
def test_a_gate_of_low_rank_is_recovered(gated: bool, method: Any, recall: float) -> None:
    model = decoder(gated, planted=4)
    found = assess(model, fit(model, ROWS, method, rank=4, recall=recall), ROWS)
    for score in found.blocks.values():
        assert score.recall > recall - 0.01
        # hardly anything inactive is taken for active
        assert score.sparsity > score.sparsity_true - 0.02
    assert abs(found.rise) < 1e-2


@pytest.mark.parametrize("form", [(True, False), (False, False), (True, True)])
def test_at_full_rank_the_decomposition_misses_nothing(form: tuple[bool, bool]) -> None:
    model = decoder(form[0], both=form[1])
    found = assess(model, fit(model, ROWS, "svd", rank=32, recall=1.0), ROWS)
    for score in found.blocks.values():
        assert score.recall == 1.0
        if not form[1]:  # dReLU has zeros that the gate knows nothing of
            assert score.sparsity > score.sparsity_true - 1e-3
    assert found.perplexity_predicted == pytest.approx(found.perplexity, rel=1e-5)


def test_training_is_better_than_the_decomposition_it_starts_from() -> None:
    model = decoder(True, both=True)
    sparsity = {
        method: assess(model, fit(model, ROWS, method, rank=8, recall=0.95), ROWS).mean("sparsity")
        for method in ("svd", "trained")
    }
    assert sparsity["trained"] > sparsity["svd"] + 0.02


def by_hand(model: Decoder, bias: float) -> Predictors:
    blocks, active = {}, {}
    for b in feed_forwards(model):
        blocks[b.name] = Predictor(torch.zeros(1, 32), torch.zeros(48, 1), torch.full((48,), bias))
        active[b.name] = torch.zeros(48)
    return Predictors("by hand", 1.0, fingerprint(model), blocks, active)


def test_always_active_has_recall_1_and_sparsity_0_and_never_the_reverse() -> None:
    model = decoder()
    logits = model(ROWS[:, :-1])
    always, never = by_hand(model, 1.0), by_hand(model, -1.0)
    found = assess(model, always, ROWS)
    assert {(s.recall, s.sparsity) for s in found.blocks.values()} == {(1.0, 0.0)}
    assert found.perplexity_predicted == found.perplexity
    with enabled(model, always, ROWS):
        assert torch.equal(model(ROWS[:, :-1]), logits)
    assert {(s.recall, s.sparsity) for s in assess(model, never, ROWS).blocks.values()} == {
        (0.0, 1.0)
    }


def test_recall_and_sparsity_are_those_of_brute_force() -> None:
    model = decoder()
    predictors = fit(model, ROWS, "svd", rank=6, recall=0.9)
    found = assess(model, predictors, ROWS)
    block = feed_forwards(model)[1]
    seen: list[Tensor] = []
    hook = block.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(ROWS[:, :-1])
    hook.remove()
    x = seen[0].detach()
    active = block.hidden(x) > 0
    active |= block.hidden(x) < 0
    predicted = predictors.blocks[block.name].scores(x) > 0
    score = found.blocks[block.name]
    assert score.recall == pytest.approx(float((predicted & active).sum() / active.sum()), abs=1e-4)
    assert score.sparsity == pytest.approx(float((~predicted).float().mean()), abs=1e-4)
    # what the calibration was asked for, on a fourth of this text
    assert score.recall == pytest.approx(0.9, abs=0.02)
    # 6 (32 + 48) + 48 numbers for 3 matrices
    assert score.cost == pytest.approx((6 * 80 + 48) / (3 * 32 * 48))


def test_what_is_predicted_inactive_does_not_compute() -> None:
    model = decoder()
    predictors = fit(model, ROWS, "svd", rank=6, recall=0.8)
    block = feed_forwards(model)[0]
    seen: dict[str, Tensor] = {}
    block.inner[0].register_forward_pre_hook(lambda _, given: seen.update(x=given[0]))
    with predicting(model, predictors):
        block.down.register_forward_pre_hook(lambda _, given: seen.update(h=given[0]))
        model(ROWS[:, :-1])
    out = predictors.blocks[block.name].scores(seen["x"]) <= 0
    assert torch.equal(seen["h"], block.hidden(seen["x"]).masked_fill(out, 0))
    assert bool(out.any())


def test_a_dear_predictor_is_refused_unless_forced() -> None:
    trained = trained_enough()
    never = by_hand(trained, -1.0)
    refused = pytest.raises(Error, match=r"may cost 1% of perplexity, got recall 0.00%, .*force=")
    with refused, enabled(trained, never, ROWS):
        pass
    with enabled(trained, never, ROWS, force=True) as found:
        assert found.rise > 0.01


def test_a_cost_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder()
    found = Assessment(assess(model, by_hand(model, 1.0), ROWS[:2]).blocks, 30.0, math.nan)
    monkeypatch.setattr(predictors_module, "assess", lambda *_: found)
    with pytest.raises(Error, match="may cost 1%"), enabled(model, by_hand(model, 1.0), ROWS):
        pass


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"first": torch.zeros(())}, "must map 32 inputs to 48 neurons"),
        ({"first": torch.zeros(0, 32), "second": torch.zeros(48, 0)}, "must map 32 inputs"),
        ({"bias": torch.zeros(48, dtype=torch.bfloat16)}, "must be of fp32 numbers"),
        ({"second": torch.zeros(48, 1, dtype=torch.int64)}, "must be of fp32 numbers"),
        ({"bias": torch.full((48,), math.nan)}, "NaN"),
        ({"active": torch.zeros(47)}, "a threshold for each"),
        ({"active": torch.full((48,), math.nan)}, "NaN"),
    ],
)
def test_predictors_of_another_shape_or_type_are_refused(
    change: dict[str, Tensor], match: str, tmp_path: Path
) -> None:
    model = decoder()
    found, name = by_hand(model, 1.0), feed_forwards(model)[0].name
    active = {name: change.pop("active")} if "active" in change else {}
    blocks = {**found.blocks, name: found.blocks[name]._replace(**change)}
    wrong = dataclasses.replace(found, blocks=blocks, active={**found.active, **active})
    wrong.save(tmp_path / "wrong.safetensors")
    with pytest.raises(DataError, match=match):
        load_predictors(tmp_path / "wrong.safetensors", model)


def test_calibration_reads_tokens_that_training_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, list[Tensor]] = {"_trained": [], "_calibrated": []}
    for name, place in (("_trained", 1), ("_calibrated", 2)):
        original = getattr(fitting, name)

        def noting(*a: Any, name: str = name, place: int = place, original: Any = original) -> Any:
            read[name].append(a[place])
            return original(*a)

        monkeypatch.setattr(fitting, name, noting)
    fit(decoder(), ROWS[:4], "trained", rank=2, epochs=1)
    for trained, calibrated in zip(*read.values(), strict=True):
        assert len(trained) == 3 * len(calibrated) == 96
        assert float(torch.cdist(trained, calibrated).min()) > 0


def test_the_decomposition_is_the_best_for_the_inputs() -> None:
    block = feed_forwards(decoder())[0]
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    x = x * torch.linspace(0.1, 3, 32)
    predictor, _ = fitting._svd(block, x, 8)
    weight = block.matrices()[0].weight.detach()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)

    def lost(of: Tensor) -> float:
        return float((x @ (weight - of).t()).square().mean())

    assert lost(predictor.second @ predictor.first) < 0.8 * lost((u[:, :8] * s[:8]) @ v[:8])


def test_inputs_that_are_all_zero_are_refused() -> None:
    model = decoder()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.zero_()
    with pytest.raises(Error, match="must not be 0 for every token"):
        fit(model, ROWS[:2], "svd", rank=2)


def trained_enough() -> Decoder:
    model = decoder()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        logits = model(ROWS[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ROWS[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_labels_of_thresholds() -> None:
    model = decoder(act="silu")
    thresholds = calibrate(model, ROWS, "cett", 0.3)
    predictors = fit(model, ROWS, "trained", rank=16, recall=0.9, thresholds=thresholds)
    found = assess(model, predictors, ROWS)
    for score in found.blocks.values():
        assert score.sparsity_true > 0.1
        assert score.recall == pytest.approx(0.9, abs=0.05)
    with pytest.raises(Error, match="calibrate with method cett"):
        fit(model, ROWS, thresholds=calibrate(model, ROWS, "cats", 0.3))


def test_a_file_gives_the_same_predictors_of_the_same_model_alone(tmp_path: Path) -> None:
    model = decoder()
    predictors = fit(model, ROWS, "svd", rank=6)
    path = tmp_path / "predictors.safetensors"
    predictors.save(path)
    again = load_predictors(path, model)
    assert (again.method, again.recall, again.model) == ("svd", 0.98, predictors.model)
    for name, predictor in predictors.blocks.items():
        for a, b in zip(again.blocks[name], predictor, strict=True):
            assert torch.equal(a, b)
    with pytest.raises(DataError, match="fit them anew"):
        load_predictors(path, decoder(act="relu2").double())
    calibrate(model, ROWS, "cats", 0.3).save(path)
    with pytest.raises(DataError, match="must hold integrand predictors"):
        load_predictors(path, model)


def test_one_token_is_too_few_to_train_on() -> None:
    model = decoder(True)
    with pytest.raises(DataError, match="two tokens at least"):
        fit(model, ROWS[:1, :2], "trained", rank=2)
    for method, length in (("svd", 2), ("trained", 3)):
        assert fit(model, ROWS[:1, :length], method, rank=2).method == method


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"method": "magic"}, "trained or svd"),
        ({"recall": 0.0}, "recall must be"),
        ({"size": 0.001}, "no rank left"),
        ({"rank": 0}, "at least 1, .* got 0"),
        ({"rank": -1}, "at least 1, .* got -1"),
    ],
)
def test_refusals(given: dict[str, Any], match: str) -> None:
    with pytest.raises(Error, match=match):
        fit(decoder(), ROWS, **given)
