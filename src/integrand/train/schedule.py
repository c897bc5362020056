"""Learning rates over steps."""

import math

from integrand.train.config import TrainConfig


def rate_factor(config: TrainConfig, step: int) -> float:
    """The factor on the peak rate at `step` of a run, counted from 0."""
    if config.schedule == "cosine":
        return cosine(
            step,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            first=config.lr_first,
            last=config.lr_last,
        )
    return wsd(
        step,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
        first=config.lr_first,
        last=config.lr_last,
    )


def wsd(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    first: float = 0.0,
    last: float = 0.0,
) -> float:
    """Warm-up, stable, decay: the factor on the peak rate at `step` of `steps`, counted from 0.

    Linear warm-up from `first`; then 1; then, n steps into the decay,
    last + (1 - last) (1 - sqrt(n / decay_steps)), which reaches `last` at step == steps.
    Source: arXiv:2405.18392 (the 1-sqrt form).
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps, first)
    into_decay = step - (steps - decay_steps)
    if into_decay <= 0:
        return 1.0
    return last + (1.0 - last) * max(0.0, 1.0 - math.sqrt(into_decay / decay_steps))


def cosine(
    step: int, *, steps: int, warmup_steps: int, first: float = 0.0, last: float = 0.0
) -> float:
    """Linear warm-up, then last + (1 - last) (1 + cos(pi t)) / 2 for t from 0 to 1.

    Source: arXiv:1608.03983, without restarts.
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps, first)
    t = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return last + (1.0 - last) * (1.0 + math.cos(math.pi * t)) / 2


def _warmup(step: int, warmup_steps: int, first: float) -> float:
    return first + (1.0 - first) * (step + 1) / warmup_steps
