"""Regularised evolution: the best of a sample is mutated, the oldest dies. Source:
arXiv:1802.01548. Ours: some children are crossed before, and mutate more than once.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from integrand.search.candidate import Candidate, Genome, Space, by_chance
from integrand.search.strategy import Standing, first_admitted

_Member = tuple[Standing, str, Genome]  # standing, key, genome


class Evolution:
    """Args:
    population: of candidates alive; as many come first, by chance.
    sample: drawn at every step; its best is the parent.
    crossover: share of children that take parts of a second parent, drawn the same way.
    """

    def __init__(
        self, space: Space, seed: int = 0, *, population: int = 48, sample: int = 12,
        crossover: float = 0.2,
    ) -> None:  # fmt: skip
        self.space, self.rng = space, np.random.default_rng(seed)
        self.size, self.sample, self.crossover = population, sample, crossover
        self.alive: deque[_Member] = deque(maxlen=population)

    def ask(self) -> Candidate:
        return first_admitted(self.space, self._propose)

    def _propose(self) -> tuple[Genome, tuple[str, ...], str]:
        if len(self.alive) < self.size:
            return self.space.build(by_chance(self.rng)), (), "new"
        _, key, genome = self._parent()
        parents, operations = [key], []
        if self.rng.random() < self.crossover:
            _, other, second = self._parent()
            genome = self.space.cross(genome, second, self.rng)
            parents.append(other)
            operations.append("cross")
        # one mutation most of the time: valleys are wider than a step
        for _ in range(self.rng.geometric(0.6)):
            operation, genome = self.space.mutate(genome, self.rng)
            operations.append(operation)
        return genome, tuple(parents), ", ".join(operations)

    def _parent(self) -> _Member:
        drawn = self.rng.choice(len(self.alive), self.sample, replace=False)
        return min((self.alive[i] for i in drawn), key=lambda member: member[0])

    def tell(self, candidate: Candidate, standing: Standing | None) -> None:
        """A refused candidate does not join."""
        if standing is not None:
            self.alive.append((standing, candidate.key, candidate.genome))

    def reseed(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)
