"""The learning rate of a variant at a rung, from runs on seeds that are used for nothing else."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from integrand.errors import Error


def sweep(
    records: Iterable[Mapping[str, Any]], rung: str, variant: str
) -> dict[float, list[float]]:
    """Losses of the tune arm by rate, ascending; a diverged run counts as infinitely bad."""
    found: dict[float, list[float]] = defaultdict(list)
    for record in records:
        if (record["arm"], record["rung"], record["variant"]) == ("tune", rung, variant):
            found[record["lr"]].append(loss(record))
    return dict(sorted(found.items()))


def best_rate(records: Iterable[Mapping[str, Any]], rung: str, variant: str) -> tuple[float, bool]:
    """(the rate of the lowest mean loss, whether it lies at an end of the rates tried).

    Raises:
        Error: no run of the tune arm, or every one diverged.
    """
    means = mean_losses(records, rung, variant)
    if not means:
        raise Error(f"{variant} at {rung} has no finished run of the tune arm; train it first")
    best = min(means, key=lambda lr: means[lr])
    if math.isinf(means[best]):
        raise Error(f"every rate of {variant} at {rung} diverged; try rates below {min(means):g}")
    return best, best in (min(means), max(means))


def mean_losses(
    records: Iterable[Mapping[str, Any]], rung: str, variant: str
) -> dict[float, float]:
    """Mean loss of the tune arm by rate, ascending."""
    return {lr: math.fsum(v) / len(v) for lr, v in sweep(records, rung, variant).items()}


def loss(record: Mapping[str, Any]) -> float:
    """Held-out loss in nats per token; infinite where the run diverged."""
    if record["diverged"] is not None or record["loss"] is None:
        return math.inf
    return record["loss"] if math.isfinite(record["loss"]) else math.inf
