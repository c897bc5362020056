"""Strategies: `ask` for a candidate, `tell` its standing (None: refused).

Deterministic by seed and by what they are told, in whatever order. A candidate that climbs later is
told again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from integrand.errors import Error, SpecError
from integrand.search.candidate import Candidate, Genome, Space, by_chance

_TRIES = 200


class Standing(NamedTuple):
    """How a candidate did, less is better: rungs `below` the last one, then its merit at its rung.
    Only the order of standings means anything."""

    below: int
    merit: float


class Strategy(Protocol):
    """What proposes candidates of a space."""

    space: Space

    def ask(self) -> Candidate | None:
        """The next candidate, None where the space is exhausted."""
        ...

    def tell(self, candidate: Candidate, standing: Standing | None) -> None: ...

    def reseed(self, *seed: int) -> None:
        """Chance goes on as if it began with these numbers: what is asked for next depends on them
        and on what was told, and on nothing else."""
        ...


def first_admitted(
    space: Space, propose: Callable[[], tuple[Genome, tuple[str, ...], str]]
) -> Candidate:
    """The first proposal (genome, parents, operation) that the grammar of specs admits."""
    reason = ""
    for _ in range(_TRIES):
        genome, parents, operation = propose()
        try:
            return Candidate(space.spec(genome), genome, parents, operation)
        except SpecError as error:
            reason = str(error)
    raise Error(f"none of {_TRIES} proposals in the space '{space.name}' is a spec; last: {reason}")


class Random:
    """Independent candidates, every decision by chance."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space, self.rng = space, np.random.default_rng(seed)

    def ask(self) -> Candidate:
        return first_admitted(
            self.space, lambda: (self.space.build(by_chance(self.rng)), (), "new")
        )

    def tell(self, candidate: Candidate, standing: Standing | None) -> None:
        """Nothing is learnt."""

    def reseed(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)


class Exhaustive:
    """Every sequence of decisions once, in order, those that are no specs left out and counted."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.next: list[int] | None = []
        self.admitted = self.left_out = 0
        self.reason = ""  # of the last one left out

    def ask(self) -> Candidate | None:
        while self.next is not None:
            genome = self._advance(self.next)
            try:
                candidate = Candidate(self.space.spec(genome), genome)
            except SpecError as error:
                self.left_out, self.reason = self.left_out + 1, str(error)
                continue
            self.admitted += 1
            return candidate
        if not self.admitted:
            raise Error(
                f"none of {self.left_out} candidates of the space '{self.space.name}' is a spec; "
                f"last: {self.reason}"
            )
        return None

    def _advance(self, prefix: list[int]) -> Genome:
        """The genome of the decisions that start with the prefix; moves on to the next ones."""
        taken: list[tuple[int, int]] = []

        def choose(_: str, options: int) -> int:
            option = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((option, options))
            return option

        genome = self.space.build(choose)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        self.next = [option for option, _ in taken[:-1]] + [taken[-1][0] + 1] if taken else None
        return genome

    def tell(self, candidate: Candidate, standing: Standing | None) -> None:
        """Nothing is learnt."""

    def reseed(self, *seed: int) -> None:
        """Nothing is left to chance."""
