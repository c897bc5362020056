"""`Candidate`, what a strategy proposes, and `Space`, where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from integrand.spec import Spec, from_toml, to_toml

Genome = tuple[Any, ...]  # nested tuples of numbers and texts: JSON, but for the brackets
Choose = Callable[[str, int], int]  # (kind of decision, number of options) -> the option taken


@dataclass(frozen=True)
class Candidate:
    """A spec with its genome in a space, and its lineage: the parents' keys and the operation.

    `options` are those taken while it was built, where a strategy learns from them.
    """

    spec: Spec
    genome: Genome
    parents: tuple[str, ...] = ()
    operation: str = "new"
    options: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Content hash of the spec."""
        return self.spec.sha256

    @classmethod
    def reference(cls, spec: Spec) -> Candidate:
        """One of no space, to compare with: its genome is its spec file."""
        return cls(spec, (to_toml(spec),), operation="reference")

    def to_dict(self) -> dict[str, Any]:
        """JSON that `Candidate.of` reads back in the same space."""
        data = {"genome": self.genome, "parents": self.parents, "operation": self.operation}
        return data | ({"options": self.options} if self.options else {})

    @classmethod
    def of(cls, space: Space, data: Mapping[str, Any]) -> Candidate:
        genome = frozen(data["genome"])
        spec = from_toml(genome[0]) if data["operation"] == "reference" else space.spec(genome)
        return cls(
            spec, genome, tuple(data["parents"]), data["operation"],
            tuple(data.get("options", ())),
        )  # fmt: skip


class Space(Protocol):
    """A set of genomes. All randomness comes in from outside: the same choices, the same genome.

    `build` makes a genome by a sequence of decisions, each one call of `choose(kind, options)`;
    `kinds` lists every kind with its number of options. Whoever decides is a strategy: chance, an
    enumeration, a recurrent network.
    """

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> Mapping[str, int]: ...

    def build(self, choose: Choose) -> Genome: ...

    def mutate(self, genome: Genome, rng: np.random.Generator) -> tuple[str, Genome]:
        """(operation, genome); the genome may be one that `spec` refuses."""
        ...

    def cross(self, a: Genome, b: Genome, rng: np.random.Generator) -> Genome: ...

    def spec(self, genome: Genome) -> Spec:
        """The spec of a genome. Raises `SpecError`."""
        ...


def frozen(data: Any) -> Any:
    """Lists, as JSON has them, as tuples."""
    return tuple(map(frozen, data)) if isinstance(data, list | tuple) else data


def by_chance(rng: np.random.Generator) -> Choose:
    """Every option equally likely."""
    return lambda _, options: int(rng.integers(options))
