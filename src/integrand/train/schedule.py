"""Learning rates over steps."""

import math


def wsd(step: int, *, steps: int, warmup_steps: int, decay_steps: int) -> float:
    """Warm-up, stable, decay: the factor on the peak rate at `step` of `steps`, counted from 0.

    Linear warm-up (step + 1) / warmup_steps; then 1; then 1 - sqrt(n / decay_steps), n steps into
    the decay, which reaches 0 at step == steps. Source: arXiv:2405.18392 (the 1-sqrt form).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    into_decay = step - (steps - decay_steps)
    if into_decay <= 0:
        return 1.0
    return max(0.0, 1.0 - math.sqrt(into_decay / decay_steps))
