"""Candidates per minute through the two cheapest rungs, everything included, and through the
synthetic one.

    python benchmarks/search_rungs.py [--candidates N] [--synthetic N] [--workers N] [--json PATH]

Each worker generates by regularised evolution (with E f^2 near 1 as a mock objective), compares
with what it has seen, and takes every new candidate through validity and the Gaussian rung. Counted
are the new candidates, refused ones included. Through the synthetic rung go valid candidates that
come by chance.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from integrand.errors import Error
from integrand.report.machine import environment
from integrand.search.candidate import Candidate
from integrand.search.evolution import Evolution
from integrand.search.function_space import function_space
from integrand.search.gaussian import gaussian
from integrand.search.gradient_space import GradientSpace
from integrand.search.loop import evaluations
from integrand.search.profile import profile
from integrand.search.strategy import Random
from integrand.search.synthetic import synthetic_rung
from integrand.search.validity import validity
from integrand.spec import row
from integrand.train.files import write_json
from integrand.train.runs import command

SPACES = {"gradient": GradientSpace, "function2": lambda: function_space(2)}


def work(space: str, seed: int, candidates: int) -> Counter[str]:
    """What happened to the candidates of one worker, and its processor seconds."""
    counts: Counter[str] = Counter()

    def objective(candidate: Candidate) -> float | None:
        p = profile(candidate.spec)
        found = validity(p)
        if not found.ok:
            counts["refused"] += 1
            return None
        gaussian(p)
        counts["passed"] += 1
        return abs(found.square - 1)

    start = time.process_time()
    for e in evaluations(Evolution(SPACES[space](), seed), objective, candidates):
        counts["asked"] = e.asked
    counts["cpu_ms"] = round(1000 * (time.process_time() - start))
    return counts


def measured(space: str, workers: int, candidates: int) -> dict[str, Any]:
    """The workers side by side, their start left out."""
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(work, [space] * workers, range(workers), [30] * workers))
        start = time.perf_counter()
        total: Counter[str] = Counter()
        for counts in pool.map(work, [space] * workers, range(workers), [candidates] * workers):
            total += counts
        seconds = time.perf_counter() - start
    new = total["passed"] + total["refused"]
    return {
        "rung": "validity and gaussian", "space": space, "workers": workers, **total,
        "seconds": round(seconds, 1),
        "per_minute": round(60 * new / seconds),
        "per_cpu_minute": round(60000 * new / total["cpu_ms"]),
    }  # fmt: skip


def train(seed: int, candidates: int) -> float:
    """Processor seconds of valid candidates of the gradient space on the synthetic tasks."""
    strategy, rung, left = Random(GradientSpace(), seed), synthetic_rung(), candidates
    rung.run(Candidate(row("silu").spec, ()))  # the reference, once per process
    start = time.process_time()
    while left:
        candidate = strategy.ask()
        if validity(profile(candidate.spec)).ok:
            left -= 1
            with suppress(Error):
                rung.run(candidate)
    return time.process_time() - start


def trained(workers: int, candidates: int) -> dict[str, Any]:
    """The workers side by side, their start left out."""
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(train, range(workers), [1] * workers))
        start = time.perf_counter()
        cpu = sum(pool.map(train, range(workers), [candidates] * workers))
        seconds = time.perf_counter() - start
    total = workers * candidates
    return {
        "rung": "synthetic", "space": "gradient", "workers": workers, "candidates": total,
        "seconds": round(seconds, 1), "per_minute": round(60 * total / seconds, 1),
        "per_cpu_minute": round(60 * total / cpu, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--synthetic", type=int, default=12, help="per worker")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [measured(space, args.workers, args.candidates) for space in SPACES]
    rows.append(trained(args.workers, args.synthetic))
    print(*rows, sep="\n")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"command": command(), "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
