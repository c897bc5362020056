"""A space of a fixed number of named slots, each with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from integrand.search.candidate import Choose, Genome
from integrand.spec import Spec


@dataclass(frozen=True)
class Slots:
    """A genome is the option taken in each slot; `write` makes the spec of slot -> option."""

    name: str
    slots: Mapping[str, tuple[str, ...]]
    write: Callable[[Mapping[str, str]], Spec]

    @property
    def kinds(self) -> dict[str, int]:
        """Every slot is a kind of decision."""
        return {slot: len(options) for slot, options in self.slots.items()}

    def build(self, choose: Choose) -> Genome:
        """One option per slot, in order."""
        return tuple(options[choose(slot, len(options))] for slot, options in self.slots.items())

    def mutate(self, genome: Genome, rng: np.random.Generator) -> tuple[str, Genome]:
        """Another option in one slot."""
        free = [i for i, options in enumerate(self.slots.values()) if len(options) > 1]
        if not free:
            return "change", genome
        i = int(rng.choice(free))
        others = [o for o in list(self.slots.values())[i] if o != genome[i]]
        return "change", (*genome[:i], others[rng.integers(len(others))], *genome[i + 1 :])

    def cross(self, a: Genome, b: Genome, rng: np.random.Generator) -> Genome:
        """Each slot from either parent."""
        return tuple((p, q)[rng.integers(2)] for p, q in zip(a, b, strict=True))

    def spec(self, genome: Genome) -> Spec:
        """The spec of a genome. Raises `SpecError`."""
        return self.write(dict(zip(self.slots, genome, strict=True)))
