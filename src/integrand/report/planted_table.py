"""The table of `benchmarks/search_planted.py`: how soon strategies find a planted gradient."""

from __future__ import annotations

import math
import statistics
from typing import Any

from integrand.report.tables import Cell, Table


def planted(data: dict[str, Any]) -> Table:
    """Per distance and strategy: seeds that reached it, the median of their evaluations (a seed
    that did not counted as beyond all), and seeds on which it was there before random was."""
    counts = {
        (row["strategy"], distance, row["seed"]): math.inf if count is None else count
        for row in data["rows"]
        for distance, count in row["evaluations_to"].items()
    }
    strategies = dict.fromkeys(strategy for strategy, _, _ in counts)
    distances = dict.fromkeys(distance for _, distance, _ in counts)
    # a run that is under way has seeds that some strategies still lack
    seeds = [
        seed
        for seed in dict.fromkeys(seed for _, _, seed in counts)
        if all((s, d, seed) in counts for s in strategies for d in distances)
    ]
    lines, breaks = [], set()
    for distance in distances:
        breaks.add(len(lines))
        for strategy in strategies:
            found = [counts[strategy, distance, seed] for seed in seeds]
            chance = [counts["random", distance, seed] for seed in seeds]
            median = statistics.median(found)
            sooner = sum(a < b for a, b in zip(found, chance, strict=True))
            lines.append(
                [
                    Cell(distance, "n"),
                    Cell(strategy),
                    Cell(_of(sum(map(math.isfinite, found)), seeds), "n"),
                    Cell(f"{median:g}" if median < math.inf else f"> {data['budget']}", "n"),
                    Cell("–" if strategy == "random" else _of(sooner, seeds), "n"),
                ]
            )
    head = ["distance", "strategy", "reached by seeds", "evaluations, median", "sooner than random"]
    return Table(head, lines, frozenset(breaks - {0}))


def _of(count: int, all_: Any) -> str:
    return f"{count} of {len(all_)}"
