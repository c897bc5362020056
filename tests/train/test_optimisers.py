import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from integrand.errors import Error
from integrand.models.decoder import Decoder
from integrand.nn.groups import activation_modules
from integrand.train import checkpoint
from integrand.train.activations import chosen
from integrand.train.checkpoint import Progress
from integrand.train.config import TrainConfig
from integrand.train.files import read_metrics
from integrand.train.loop import build, set_rate, train
from integrand.train.optimisers import make_optimizers
from integrand.train.tokens import TokenData

STEPS = 30
WARMUP = 20


class Stop(Exception):
    pass


def needs(optimizer: str) -> None:
    if optimizer == "ademamix":
        pytest.importorskip("pytorch_optimizer", reason="AdEMAMix is that library's")


def decoder(config: TrainConfig) -> Decoder:
    return build(config, chosen(config)).double()


def gradients(model: Decoder, step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    shapes = [p.shape for p in model.parameters()]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def ademamix(
    p: Tensor, drawn: list[Tensor], config: TrainConfig, scale: float, decay: float
) -> Tensor:
    """p after the updates of arXiv:2409.03137, section 3, with these gradients."""
    (beta1, beta2), beta3, alpha = config.betas, config.ademamix_beta3, config.ademamix_alpha

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta) - 1

    m1 = m2 = v = torch.zeros_like(p)
    for t, g in enumerate(drawn, 1):
        into = min(1.0, t / WARMUP)
        slow = 0.5 ** (1 / (half_life(beta1) * (1 - into) + half_life(beta3) * into + 1))
        m1 = beta1 * m1 + (1 - beta1) * g
        m2 = slow * m2 + (1 - slow) * g
        v = beta2 * v + (1 - beta2) * g * g
        mixed = m1 / (1 - beta1**t) + alpha * into * m2
        update = mixed / ((v / (1 - beta2**t)).sqrt() + config.adam_eps) + decay * p
        p = p - config.lr * scale * update
    return p


def test_ademamix_is_the_formula_through_both_warm_ups_and_a_resume(
    config: TrainConfig, tmp_path: Path
) -> None:
    needs("ademamix")
    config = dataclasses.replace(
        config, optimizer="ademamix", ademamix_warmup_steps=WARMUP, activation_lr_scale=0.5,
        activation_weight_decay=0.01, lr=1e-2, warmup_steps=0, decay_steps=0, steps=STEPS,
    )  # fmt: skip
    model = decoder(config)
    start = [p.detach().clone() for p in model.parameters()]
    optimizers = make_optimizers(config, model)
    drawn: list[list[Tensor]] = []
    for step in range(STEPS):
        if step == 13:
            checkpoint.save(tmp_path, model, optimizers, Progress(step=step))
            model = decoder(config)
            optimizers = make_optimizers(config, model)
            assert checkpoint.restore(tmp_path, model, optimizers).step == step
        set_rate(optimizers, config, step)
        drawn.append(gradients(model, step))
        for p, gradient in zip(model.parameters(), drawn[-1], strict=True):
            p.grad = gradient
        optimizers[0].step()
    acting = {id(p) for m in activation_modules(model).values() for p in m.parameters()}
    for p, first, series in zip(model.parameters(), start, zip(*drawn, strict=True), strict=True):
        scale, decay = (0.5, 0.01) if id(p) in acting else (1.0, 0.1 if p.ndim > 1 else 0.0)
        expected = ademamix(first, list(series), config, scale, decay)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-7, atol=1e-9)


def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest(config: TrainConfig) -> None:
    config = dataclasses.replace(config, optimizer="muon", muon_lr_scale=3.0)
    model = build(config, chosen(config))
    muon, adamw = make_optimizers(config, model)
    names = {id(p): name for name, p in model.named_parameters()}
    held = {group["name"]: {names[id(p)] for p in group["params"]} for group in adamw.param_groups}
    hidden = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in hidden} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert len(hidden) == 6 * 2
    assert held["matrices"] == {"model.embed_tokens.weight"}
    assert {name.rpartition(".")[2] for name in held["activations"]} == {"alpha_p", "alpha_n"}
    assert hidden | set().union(*held.values()) == set(names.values())
    set_rate([muon, adamw], config, 10)
    assert muon.param_groups[0]["lr"] == 3 * adamw.param_groups[0]["lr"]
    assert [muon.param_groups[0]["weight_decay"], adamw.param_groups[0]["weight_decay"]] == [
        0.1
    ] * 2


@pytest.mark.parametrize("optimizer", ["muon", "ademamix"])
def test_a_run_stopped_anywhere_goes_on_with_the_same_bits(
    optimizer: str, config: TrainConfig, tokens: TokenData, tmp_path: Path
) -> None:
    needs(optimizer)
    config = dataclasses.replace(
        config, optimizer=optimizer, steps=9, warmup_steps=2, decay_steps=3, accumulate=2,
        checkpoint_every=2, eval_every=9, lr=1e-2,
    )  # fmt: skip
    whole = train(config, tmp_path / "whole", tokens=tokens, quiet=True)
    losses = list(read_metrics(tmp_path / "whole/metrics.jsonl"))
    assert whole["loss"] < losses[0]["loss"] - 0.05

    for stop in (1, 4, 7):

        def interrupt(step: int, loss: float, stop: int = stop) -> None:
            if step == stop:
                raise Stop

        folder = tmp_path / str(stop)
        with pytest.raises(Stop):
            train(config, folder, tokens=tokens, quiet=True, on_step=interrupt)
        train(config, folder, tokens=tokens, quiet=True)
        for found, expected in zip(read_metrics(folder / "metrics.jsonl"), losses, strict=True):
            assert {**found, "seconds": 0} == {**expected, "seconds": 0}
        weights = (path / "model.safetensors" for path in (folder, tmp_path / "whole"))
        assert len({path.read_bytes() for path in weights}) == 1


def test_a_missing_library_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    config = dataclasses.replace(config, optimizer="ademamix")
    with pytest.raises(Error, match="pip install pytorch_optimizer"):
        make_optimizers(config, build(config, chosen(config)))
