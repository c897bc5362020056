"""How many active neurons make skipping as slow as a dense product, measured on this machine.

Time with n of H neurons active is a + b n for a batch; it meets the fastest dense path at the
break-even. At batch 1 the block as it was is one of them: with weights laid anew torch may be
slower. Measured per shape, storage type and number of threads, and cached: once on a machine that
agrees with itself, and up to `TRIES` times on a busy one, where the shortest times count.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from integrand import cache
from integrand.kernels.c_build import processor

log = logging.getLogger("integrand")

FORMAT = 2  # of what the cache holds
BATCHES = (1, 2, 4, 8, 16, 32, 64)
# shares of active neurons at which the line is measured
LOW, HIGH = 1 / 16, 7 / 8
# a smaller gain is within the noise of a measurement: the dense path is then taken
MARGIN = 0.85
# torch's dense path is not timed again once it took this many times as long as ours
HOPELESS = 4
_ROUNDS, _SECONDS = 8, 0.2
# the best of the even and of the odd rounds differ by this share at most on a machine that rests
SETTLED = 0.1
TRIES = 3


@dataclass(frozen=True, slots=True)
class Step:
    """Up to `batch` tokens: up to `most` active neurons skip; a dense product is our `own`."""

    batch: int
    own: bool
    most: int


Plan = tuple[Step, ...]
# seconds by batch: few neurons, many, all by our dense path, by torch's, by torch's with the
# weights as they lay before (inf: not timed)
Times = list[list[float]]
# seconds of one call: (tokens, None for torch's dense path, H for ours, n for skipping all but n)
Timed = Callable[[int, int | None], Callable[[], object]]
# the same of the last at batch 1; made before any of `timed`, which lays weights anew
Former = Callable[[], Callable[[], object]]


def plan(
    identity: Sequence[object], d_hidden: int, timed: Timed, former: Former, anew: bool = False
) -> tuple[Plan, bool]:
    """The plan for a block, and whether our dense path beats the block as it was, at batch 1.

    From the cache or measured now; `identity` names what it depends on. `anew` measures whatever
    the cache holds, and replaces it. Where times kept changing while they were measured, the next
    calls measure again, as other work only ever adds time.
    """
    # times mean nothing but for what was timed
    what = (FORMAT, LOW, HIGH, BATCHES, processor(), torch.__version__, torch.get_num_threads())
    parts = (*identity, *what)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:40]
    key = f"break-even-{digest}.json"
    kept = None if anew else cache.read(key)
    times, due = json.loads(kept) if kept else ([], TRIES)
    if due:
        log.info("measuring where skipping neurons pays, for %s", identity[:5])
        found, settled = _times(d_hidden, timed, former)
        times = [list(map(min, *pair)) for pair in zip(times or found, found, strict=True)]
        due = 0 if settled else due - 1
        cache.write(key, json.dumps([times, due]).encode())
        if due:
            log.info("times kept changing: where skipping pays will be measured again")
    steps = tuple(_step(b, d_hidden, row) for b, row in zip(BATCHES, times, strict=True))
    ours, before = times[0][2], times[0][4]
    return steps, ours < MARGIN * before


def _times(d_hidden: int, timed: Timed, former: Former) -> tuple[Times, bool]:
    """Seconds, and whether they agreed with themselves."""
    times: Times = []
    hopeless = False
    before, settled = _seconds([former()])
    for batch in BATCHES:
        # seconds a call, for some types and layouts: larger batches need not show it again
        ways = [*_measured_at(d_hidden), d_hidden, *([] if hopeless else [None])]
        row, agree = _seconds([timed(batch, n) for n in ways])
        times.append([*row, math.inf][:4] + before)
        before = [math.inf]
        settled &= agree
        hopeless |= times[-1][3] > HOPELESS * times[-1][2]
    return times, settled


def _measured_at(d_hidden: int) -> tuple[int, int]:
    return round(LOW * d_hidden), round(HIGH * d_hidden)


def _step(batch: int, d_hidden: int, row: Sequence[float]) -> Step:
    few, many = _measured_at(d_hidden)
    at_few, at_many, ours, torchs, before = row
    dense = MARGIN * min(ours, torchs, before)
    slope = (at_many - at_few) / (many - few)
    meet = few + (dense - at_few) / slope if slope > 0 else d_hidden
    most = min(d_hidden - 1, int(meet)) if at_few < dense else 0
    return Step(batch, ours < MARGIN * torchs, most)


def _seconds(calls: Sequence[Callable[[], object]]) -> tuple[list[float], bool]:
    """The shortest of a few runs of each, in turn: other work on the machine only adds time.

    And whether the shortest of every other run say the same of each.
    """
    halves = [[math.inf] * len(calls), [math.inf] * len(calls)]
    spent = 0.0
    for call in calls:
        # a first call compiles, and faults pages in
        call()
    for done in range(_ROUNDS):
        best = halves[done % 2]
        for k, call in enumerate(calls):
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            best[k] = min(best[k], took)
            spent += took
        if done and spent > _SECONDS * len(calls):
            break
    pairs = list(zip(*halves, strict=True))
    return [min(p) for p in pairs], all(max(p) <= (1 + SETTLED) * min(p) for p in pairs)
