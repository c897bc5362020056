"""How many active neurons make skipping as slow as a dense product, measured on this machine.

Time with n of H neurons active is a + b n for a batch; it meets the faster dense path at the
break-even. Measured once per shape, storage type and number of threads, and cached unless the
machine was too busy to agree with itself.
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

BATCHES = (1, 2, 4, 8, 16, 32, 64)
# shares of active neurons at which the line is measured
LOW, HIGH = 1 / 16, 1 / 2
# a smaller gain is within the noise of a measurement: the dense path is then taken
MARGIN = 0.92
# torch's dense path is not timed again once it took this many times as long as ours
HOPELESS = 4
_ROUNDS, _SECONDS = 8, 0.2
# the best of the even and of the odd rounds differ by this share at most on a machine that rests
SETTLED = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """Up to `batch` tokens: up to `most` active neurons skip; a dense product is our `own`."""

    batch: int
    own: bool
    most: int


Plan = tuple[Step, ...]
# seconds of one call: (tokens, None for torch's dense path, H for ours, n for skipping all but n)
Timed = Callable[[int, int | None], Callable[[], object]]


def plan(identity: Sequence[object], d_hidden: int, timed: Timed, anew: bool = False) -> Plan:
    """The plan for a block, from the cache or measured now; `identity` names what it depends on.

    `anew` measures whatever the cache holds, and replaces it. What was measured while times kept
    changing serves this call and is not kept: the next one measures again.
    """
    parts = (*identity, processor(), torch.__version__, torch.get_num_threads())
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:40]
    key = f"break-even-{digest}.json"
    if anew or (kept := cache.read(key)) is None:
        log.info("measuring where skipping neurons pays, once for %s", identity[:5])
        steps, settled = _steps(d_hidden, timed)
        if settled:
            cache.write(key, json.dumps([[s.batch, s.own, s.most] for s in steps]).encode())
        else:
            log.warning("where skipping pays was measured on a busy machine and is not kept")
        return steps
    return tuple(Step(*step) for step in json.loads(kept))


def _steps(d_hidden: int, timed: Timed) -> tuple[Plan, bool]:
    few, many = round(LOW * d_hidden), round(HIGH * d_hidden)
    found: list[Step] = []
    rivals: tuple[int | None, ...] = (d_hidden, None)
    settled = True
    for batch in BATCHES:
        seconds, agree = _seconds([timed(batch, n) for n in (few, many, *rivals)])
        at_few, at_many, ours, *torchs = seconds
        settled &= agree
        if torchs and torchs[0] > HOPELESS * ours:
            # seconds a call, for some types and layouts: larger batches need not show it again
            rivals = (d_hidden,)
        dense = MARGIN * min([ours, *torchs])
        slope = (at_many - at_few) / (many - few)
        meet = few + (dense - at_few) / slope if slope > 0 else d_hidden
        most = min(d_hidden - 1, int(meet)) if at_few < dense else 0
        found.append(Step(batch, not torchs or ours < MARGIN * torchs[0], most))
    return tuple(found), settled


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
