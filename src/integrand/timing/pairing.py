"""Paired timing: every round runs every candidate, in alternating order, so that a slow spell of
the machine hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Candidates = Mapping[str, Callable[[], Any]]

# a measurement shorter than this is mostly the clock and the call
_SHORTEST = 2e-3
# a candidate that takes longer is measured in the first rounds only
_LONG, _FEW = 0.4, 3


def paired(
    candidates: Candidates,
    rounds: int = 15,
    warmup: int = 3,
    *,
    synchronize: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call of every candidate: element i of each list is of round i. One of more than
    0.4 s per call takes part in the first three rounds only.

    Args:
        candidates: functions without arguments, by name.
        rounds: measurements of each; the order is reversed from round to round.
        warmup: calls of each before the first measurement.
        synchronize: waits for an accelerator, before each reading of the clock.
        progress: called with (rounds done, rounds).
    """
    wait = synchronize or (lambda: None)
    repeats = {name: _repeats(call, warmup, wait) for name, call in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for done in range(rounds):
        for name in list(candidates)[:: 1 if done % 2 == 0 else -1]:
            if done >= _FEW and seconds[name][0] > _LONG:
                continue
            seconds[name].append(_measure(candidates[name], repeats[name], wait))
        if progress:
            progress(done + 1, rounds)
    return seconds


def _measure(call: Callable[[], Any], repeats: int, wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], Any], warmup: int, wait: Callable[[], None]) -> int:
    if _measure(call, 1, wait) > _LONG:
        return 1
    for _ in range(warmup - 1):
        call()
    return max(1, math.ceil(_SHORTEST / _measure(call, 1, wait)))


def ratio(seconds: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile) of the ratios in the rounds both have."""
    ratios = sorted(a / b for a, b in zip(seconds, baseline, strict=False))
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high
