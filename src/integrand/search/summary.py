"""summary.json of a search."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from integrand.report.machine import environment
from integrand.search.history import History
from integrand.search.pareto import Archive
from integrand.search.recipe import Recipe
from integrand.search.strategy import Exhaustive, Strategy
from integrand.spec import to_toml
from integrand.train.runs import command

RANKED = 50
REASONS = 10


def summary(recipe: Recipe, history: History) -> dict[str, Any]:
    """Counts, rungs with their rank correlations, the Pareto front and the best of the highest rung
    that scored anybody, their lineage back to those that came by chance."""
    ladder = history.ladder
    place = top(history)
    kept = front(recipe, history)
    ranked = [key for _, key in ladder.floors[place].order[:RANKED]]
    return {
        "kind": "search", "recipe": recipe.name, "space": recipe.space.name,
        "strategy": recipe.strategy, "seed": recipe.seed,
        "evaluated": len(ladder.floors[0].scores) + len(ladder.floors[0].refused),
        "deduplicated": len(history.same),
        "left_out": left_out(history.strategy),
        "rungs": [rung(history, i) for i in range(len(ladder.rungs))],
        "objectives": ["score", *recipe.objectives],
        "front": [shown(history, key, objectives) for key, objectives in kept.items()],
        "references": [reference(history, key) for key in ladder.references()],
        "ranking": [shown(history, key) for key in ranked],
        "lineage": lineage(history, {*kept, *ranked}),
        "confirmed": [],
        "command": command(),
        "environment": environment(),
    }  # fmt: skip


def left_out(strategy: Strategy) -> dict[str, Any]:
    """How many candidates of an enumeration were no specs, so far, and why the last one was not."""
    if not isinstance(strategy, Exhaustive):
        return {"candidates": 0, "reason": ""}
    return {"candidates": strategy.left_out, "reason": strategy.reason}


def top(history: History) -> int:
    """The place of the highest rung that has scored a candidate."""
    floors = history.ladder.floors
    return max((i for i, floor in enumerate(floors) if floor.scores), default=0)


def front(recipe: Recipe, history: History) -> dict[str, dict[str, float]]:
    """The objectives of the candidates that no other one dominates, among those of the highest
    rung: scores of different rungs do not compare."""
    archive = Archive()
    for key, score in history.ladder.floors[top(history)].scores.items():
        numbers = history.numbers[key]
        others = {name: numbers.get(name, float("nan")) for name in recipe.objectives}
        archive.add(key, {"score": score, **others})
    return dict(sorted(archive.front.items(), key=lambda kv: kv[1]["score"]))


def rung(history: History, place: int) -> dict[str, Any]:
    """A rung's counts, its time, why candidates were refused, and its rank correlation (Kendall's
    tau-b) with the next one over all that were scored at both, `chance` of them unselected."""
    ladder = history.ladder
    rung, floor = ladder.rungs[place], ladder.floors[place]
    seconds = history.seconds[place]
    reasons = Counter(floor.refused.values()).most_common(REASONS)
    found: dict[str, Any] = {
        "name": rung.name, "scored": len(floor.scores), "refused": len(floor.refused),
        "by_chance": sum(why == "chance" for why in floor.begun.values()), "keep": rung.keep,
        "seconds_limit": rung.seconds,
        "seconds_median": statistics.median(seconds) if seconds else None,
        "reasons": [{"reason": reason, "candidates": n} for reason, n in reasons],
    }  # fmt: skip
    if place + 1 < len(ladder.rungs):
        tau, pairs, chance = ladder.correlation(place)
        found |= {"rank_correlation": tau, "pairs": pairs, "pairs_by_chance": chance}
    return found


def shown(history: History, key: str, objectives: dict[str, float] | None = None) -> dict[str, Any]:
    """A candidate: its text, its spec, where it comes from, its scores by rung and its numbers."""
    candidate, ladder = history.candidates[key], history.ladder
    scores = {
        rung.name: floor.scores[key]
        for rung, floor in zip(ladder.rungs, ladder.floors, strict=True)
        if key in floor.scores
    }
    found = {
        "key": key, "name": candidate.spec.name, candidate.spec.kind: _text(candidate.spec),
        "parents": candidate.parents, "operation": candidate.operation, "scores": scores,
        "numbers": {k: v for k, v in history.numbers.get(key, {}).items() if k != "score"},
        "spec": to_toml(candidate.spec),
    }  # fmt: skip
    return found | ({"objectives": objectives} if objectives else {})


def reference(history: History, key: str) -> dict[str, Any]:
    """A reference, its scores, and by rung its place among those scored there: [14, 93] is the
    14th of 93."""
    ladder = history.ladder
    places = {
        rung.name: [ladder.rank(i, key) + 1, len(floor.scores)]
        for i, (rung, floor) in enumerate(zip(ladder.rungs, ladder.floors, strict=True))
        if key in floor.scores
    }
    reason = next((floor.refused[key] for floor in ladder.floors if key in floor.refused), "")
    return {**shown(history, key), "places": places, "refused": reason}


def lineage(history: History, keys: Iterable[str]) -> dict[str, Any]:
    """Candidates and all their ancestors by key: text, parents and operation."""
    found: dict[str, Any] = {}
    left = list(keys)
    while left:
        key = left.pop()
        candidate = history.candidates.get(history.same.get(key, key))
        if key in found or candidate is None:
            continue
        found[key] = {
            candidate.spec.kind: _text(candidate.spec), "parents": candidate.parents,
            "operation": candidate.operation,
        }  # fmt: skip
        left += candidate.parents
    return dict(sorted(found.items()))


def _text(spec: Any) -> str:
    return spec.gradient if spec.kind == "gradient" else spec.function
