"""`Recipe`: all that a search is."""

from __future__ import annotations

import functools
import hashlib
import json
import math
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
from integrand.spec import Spec
from integrand.train.text import fingerprint

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
    references: evaluated before all candidates and at every rung, to compare with.
    data: the text that a search and its confirmation divide; none: the rungs read no text.
    prepare: makes what the rungs need, once; raises `Error` where it cannot.
    """

    name: str
    space: Space
    strategy: str
    evaluations: int
    rungs: tuple[Rung, ...]
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    references: tuple[Spec, ...] = ()
    data: str = ""
    prepare: Callable[[], object] | None = None

    def check(self) -> None:
        """Raises `Error` where this is no search, or its space holds no spec."""
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise SpecError(f"the strategy must be one of {known}, got '{self.strategy}'")
        if self.evaluations < 1:
            raise SpecError(f"a search needs at least 1 evaluation, got {self.evaluations}")
        if len({rung.name for rung in self.rungs}) < len(self.rungs) or not self.rungs:
            raise Error("a search needs rungs with names of their own")
        if self.seed < 0:
            raise SpecError(f"a seed must be at least 0, got {self.seed}")
        for rung in self.rungs:
            if not (rung.seconds > 0 and 0 <= rung.keep <= 1):
                raise SpecError(
                    f"the rung '{rung.name}' must have seconds > 0 and keep a share from 0 to 1, "
                    f"got {rung.seconds} and {rung.keep}"
                )
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise SpecError(f"the weight of '{name}' must be finite, got {weight}")
        # before the references have taken their time
        STRATEGIES[self.strategy](self.space, self.seed).ask()

    def settings(self) -> dict[str, Any]:
        """What all who work on one search agree on: everything but how long it is.

        Raises `DataError` where the text cannot be read.
        """
        text = {"text": fingerprint(self.data)[:10]} if self.data else {}
        return {
            "recipe": self.name,
            "space": f"{self.space.name} {_fingerprint(self.space)}",
            "strategy": self.strategy,
            "seed": self.seed,
            "data": self.data,
            "rungs": [f"{r.name} {_hash(_said(r))}" for r in self.rungs],
            "weights": dict(self.weights),
            "references": [spec.sha256[:10] for spec in self.references],
            **text,
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
    return _hash(json.dumps([dict(space.kinds), texts]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _said(rung: Rung) -> str:
    """A function by its name, a `partial` with what it is bound to, an instance as it says."""
    run, bound = rung.run, ""
    if isinstance(run, functools.partial):
        bound, run = f"{run.args} {run.keywords}", run.func
    return f"{getattr(run, '__qualname__', None) or repr(run)} {bound} {rung.seconds} {rung.keep}"
