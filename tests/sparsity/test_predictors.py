from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from integrand.activation import activation
from integrand.errors import DataError, Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.sparsity import feed_forwards
from integrand.sparsity.calibration import calibrate
from integrand.sparsity.fitting import fit
from integrand.sparsity.predictors import (
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
