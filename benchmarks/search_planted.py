"""How many evaluations it takes to find xIELU's gradient, planted, in the gradient space.

    python benchmarks/search_planted.py [--seeds N] [--budget N] [--json PATH]

The objective is the L2 distance under N(0, 1) to xIELU's gradient at (0.8, 0.8, 0.5), up to scale,
nothing fitted (`integrand.search.planted`). Random, evolution and controller, each with its default
settings and the same seeds, until the distance is 0.05 or the budget is spent; told what the engine
tells (`History`). A candidate equivalent to an earlier one is not evaluated again and does not
count; nobody may ask more than twice the budget. Rows that the JSON file already holds are not run
again. docs/search.md shows the table: `integrand report docs/search.md`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from integrand.report.machine import environment
from integrand.search.controller import Controller
from integrand.search.evolution import Evolution
from integrand.search.gradient_space import GradientSpace
from integrand.search.loop import evaluations
from integrand.search.planted import planted
from integrand.search.strategy import Random
from integrand.spec import row
from integrand.train.files import write_json
from integrand.train.runs import command

STRATEGIES = {"random": Random, "evolution": Evolution, "controller": Controller}
DISTANCES = (0.2, 0.1, 0.05)


def run(name: str, seed: int, budget: int) -> dict[str, Any]:
    """One search: the evaluations until each distance (None: not reached), and its best."""
    objective, start = planted(row("xielu").spec), time.process_time()
    found: dict[str, int | None] = dict.fromkeys(map(str, DISTANCES))
    best, gradient, count, asked = 1.0, "", 0, 0
    for e in evaluations(STRATEGIES[name](GradientSpace(), seed), objective, 2 * budget):
        count, asked = count + 1, e.asked
        if e.score is not None and e.score < best:
            best, gradient = e.score, e.candidate.spec.gradient or ""
            found |= {str(d): count for d in DISTANCES if best <= d and found[str(d)] is None}
        if count == budget or best <= DISTANCES[-1]:
            break
    return {
        "strategy": name, "seed": seed, "budget": budget, "evaluations_to": found, "best": best,
        "gradient": gradient, "evaluations": count, "asked": asked,
        "cpu_s": round(time.process_time() - start, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1500)
    parser.add_argument("--json", type=Path, default=Path("results/search/planted.json"))
    args = parser.parse_args()
    rows = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    # a search that found all, or gave up no sooner than now
    rows = [r for r in rows if r["best"] <= DISTANCES[-1] or r["budget"] >= args.budget]
    done = {(row["seed"], row["strategy"]) for row in rows}
    for seed in range(args.seeds):
        for name in STRATEGIES:
            if (seed, name) in done:
                continue
            rows.append(run(name, seed, args.budget))
            print(rows[-1], flush=True)
            args.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                args.json,
                {
                    "kind": "planted",
                    "command": command(),
                    "environment": environment(),
                    "budget": args.budget,
                    "rows": rows,
                },
            )


if __name__ == "__main__":
    main()
