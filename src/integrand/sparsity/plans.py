"""Plans for blocks: up to which share of active neurons each skips, timed as the blocks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import torch

from integrand.sparsity import row_skip
from integrand.sparsity.break_even import BATCHES, Plan, Step, plan
from integrand.sparsity.skipping import RowSkip
from integrand.sparsity.vetting import has_zeros


def fixed(skips: list[RowSkip], share: float) -> list[tuple[Plan, bool]]:
    return [((Step(BATCHES[-1], True, int(share * s.block.d_hidden)),), True) for s in skips]


def measured(skips: list[RowSkip], anew: bool) -> list[tuple[Plan, bool]]:
    """A plan for each, and whether it gains at batch 1; blocks of one shape take turns."""
    alike: dict[tuple[Any, ...], list[RowSkip]] = {}
    for skip in skips:
        _, up, down = skip.block.matrices()
        shape = (skip.block.form, *up.weight.shape, len(down.weight), str(up.weight.dtype))
        alike.setdefault(shape, []).append(skip)
    plans = {}
    for shape, group in alike.items():
        # what fits in the processor's caches all together runs at another speed
        weights = sum(p.numel() for s in group for p in s.block.module.parameters())
        identity = (*shape, weights.bit_length())
        # every call takes the next block: what the one before has read lies in a cache
        turn = cycle(group)
        ways = partial(_timed, group, turn), partial(_former, group, turn)
        plans[shape] = plan(identity, shape[1], *ways, anew)
    of_each = [(s, plans[shape]) for s in skips for shape, g in alike.items() if s in g]
    return [(p, faster or (p[0].most > 0 and has_zeros(s.block))) for s, (p, faster) in of_each]


def _former(group: list[RowSkip], turn: Iterator[RowSkip]) -> Callable[[], object]:
    """The model's own code at batch 1 for the next block, its weights as they lie."""
    up = group[0].block.matrices()[1].weight
    x = torch.randn(1, up.shape[1]).to(up)
    return lambda: next(turn).original(x)


def _timed(
    group: list[RowSkip], turn: Iterator[RowSkip], batch: int, n: int | None
) -> Callable[[], object]:
    """One call of the next block: torch's dense path, ours (n = H), or skipping all but n."""
    for skip in group:
        skip.lay()
        skip.known()
    up = group[0].block.matrices()[1].weight
    width = len(up)
    x = torch.randn(batch, up.shape[1]).to(up)
    if n is None:
        return lambda: next(turn).original(x)
    dense = Step(batch, True, 0)
    a = torch.zeros(batch, width, dtype=x.dtype)
    a[:, torch.linspace(0, width - 1, n).round().long()] = 1

    def ours() -> object:
        skip = next(turn)
        # small blocks feel what is asked at every call
        skip.plain(x)
        weights = skip.weights(x)
        assert weights is not None
        if n == width:
            return skip.feed(x, weights, dense)
        skip.activated(row_skip.rows(weights.gate or weights.up, None, x))
        row_skip.largest(x)
        return skip.skipping(x, a, row_skip.active(a), weights)

    return ours
