"""A tiny language model per candidate, through the ordinary training loop."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from integrand.activation import derive
from integrand.errors import Error
from integrand.search.candidate import Candidate
from integrand.search.rung import Rung
from integrand.spec import Spec
from integrand.train import DataConfig, TokenData, TrainConfig, Variant, prepare, train
from integrand.train.matched import variant_config
from integrand.train.studies.recipes import size

SIZE = "0.1M"
SEED = 7000  # of the search alone: a confirmation has others
RATE = 1e-2  # between the best ones of plain and gated blocks at this size


def tiny_config(data: str = "python-docs", steps: int = 300) -> TrainConfig:
    """The smallest size of the study's ladder, cut short, with a plain block."""
    base = size(SIZE, data, compiled=False)
    config = dataclasses.replace(
        base, seed=SEED, lr=RATE, steps=steps, warmup_steps=steps // 20, decay_steps=steps // 4,
        eval_every=steps, eval_sequences=128, checkpoint_every=steps, log_every=steps, device="cpu",
    )  # fmt: skip
    return variant_config(config, Variant(name="candidate", activation="candidate"))


def tiny_loss(spec: Spec, config: TrainConfig) -> float:
    """Held-out loss in nats per token of one run; all specs start equal and see equal batches.

    Raises:
        Error: no antiderivative, no kernel, or a run that diverged.
    """
    act = derive(spec)
    with tempfile.TemporaryDirectory(prefix="integrand-tiny-") as folder:
        record = train(config, folder, activation=act, tokens=_tokens(config.data), quiet=True)
    if record["diverged"]:
        raise Error(f"'{spec.name}' must train, got no finite loss at step {record['diverged']}")
    return record["loss"]


@cache
def _tokens(data: DataConfig) -> TokenData:
    return prepare(data)


@dataclass(frozen=True)
class Tiny:
    """The "score" is the held-out loss; the activation's parameters train."""

    config: TrainConfig

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        return {"score": tiny_loss(candidate.spec, self.config)}


def tiny_rung(
    data: str = "python-docs", steps: int = 300, seconds: float = 900.0, keep: float = 1 / 4
) -> Rung:
    """Half a minute of one core per candidate that has its kernel."""
    return Rung("tiny", Tiny(tiny_config(data, steps)), seconds, keep)
