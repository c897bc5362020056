"""`Recipe`: all that a search is."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from integrand.errors import Error, SpecError
from integrand.search.candidate import Space, by_chance
from integrand.search.controller import Controller
from integrand.search.evolution import Evolution
from integrand.search.rung import Rung
from integrand.search.strategy import Exhaustive, Random, Strategy

STRATEGIES: dict[str, Callable[[Space, int], Strategy]] = {
    "exhaustive": lambda space, seed: Exhaustive(space),
    "random": Random,
    "evolution": Evolution,
    "controller": Controller,
}


@dataclass(frozen=True)
class Recipe:
    """Args:
    evaluations: candidates to evaluate at the first rung, equivalent ones counted once.
    rungs: of the ladder, cheapest first.
    weights: of numbers in what decides who climbs (`pareto.scalar`); none: each rung's score.
    objectives: numbers of the rungs that span the Pareto front together with the last score.
    needs: raises `Error` where something that the rungs need is missing; called before they run.
    """

    name: str
    space: Space
    strategy: str
    evaluations: int
    rungs: tuple[Rung, ...]
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    needs: Callable[[], None] | None = None

    def check(self) -> None:
        """Raises `Error` where the search cannot be run."""
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise SpecError(f"the strategy must be one of {known}, got '{self.strategy}'")
        if self.evaluations < 1:
            raise SpecError(f"a search needs at least 1 evaluation, got {self.evaluations}")
        if len({rung.name for rung in self.rungs}) < len(self.rungs) or not self.rungs:
            raise Error("a search needs rungs with names of their own")
        if self.needs:
            self.needs()

    def settings(self) -> dict[str, Any]:
        """What all who work on one search agree on: everything but how long it is."""
        return {
            "recipe": self.name,
            "space": f"{self.space.name} {_fingerprint(self.space)}",
            "strategy": self.strategy,
            "seed": self.seed,
            "rungs": [f"{r.name} {_said(r.run)} {r.seconds:g} s {r.keep:.6g}" for r in self.rungs],
            "weights": dict(self.weights),
        }


def _fingerprint(space: Space) -> str:
    """A hash of the decisions of a space and of some of its candidates."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(32):
        try:
            texts.append(space.spec(space.build(by_chance(rng))).sha256)
        except SpecError as error:
            texts.append(str(error))
    return hashlib.sha256(json.dumps([dict(space.kinds), texts]).encode()).hexdigest()[:10]


def _said(run: Any) -> str:
    """A function by its name, a `partial` with what it is bound to, an instance as it says."""
    if isinstance(run, functools.partial):
        bound = [repr(a) for a in run.args] + [f"{k}={v!r}" for k, v in run.keywords.items()]
        return f"{_said(run.func)}({', '.join(bound)})"
    return getattr(run, "__qualname__", None) or repr(run)
