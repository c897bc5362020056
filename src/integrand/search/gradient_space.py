"""The gradient space: one to three pieces, each a level plus an affine combination of primitives.

    g(x) = level + sum_i c_i h_i(k_i x + d_i)        between two cuts

All pieces share the level, so that primitives that are 0 at 0 join continuously there: xIELU's
gradient is level 0.5, cut 0, 1.6 x on the right, 0.8 expm1(x) on the left. Every number may be a
parameter.

A genome is (level, cuts, pieces), pieces from left to right, a piece a tuple of terms
(coefficient, primitive, slope, offset), and every number a pair (value, kind):

    "const"   a constant                            "free"   a parameter
    "signed"  a parameter that keeps its sign       "over"   a parameter above the level
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from integrand.search.candidate import Choose, Genome, by_chance
from integrand.search.gradient_text import PRIMITIVES, spec_of
from integrand.spec import Spec

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, -0.2)
CUTS = (0.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
COEFFICIENTS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.6, 2.0, -0.2, -0.5, -1.0, -2.0)
SLOPES = (1.0, 0.5, 2.0, -1.0)
OFFSETS = (0.0, -1.0, -0.5, 0.5, 1.0)
TRAINED = {
    "level": ("free",), "cut": ("free",), "slope": ("signed",), "offset": ("free",),
    "coefficient": ("free", "signed", "over"),
}  # fmt: skip
_GRIDS = {"level": LEVELS, "cut": CUTS, "coefficient": COEFFICIENTS, "slope": SLOPES,
          "offset": OFFSETS}  # fmt: skip
_KINDS = ("const", "signed", "over")  # of a new coefficient
_ROLES = ("coefficient", "primitive", "slope", "offset")


@dataclass(frozen=True)
class GradientSpace:
    """The grammar, with the largest numbers of pieces and of terms in a piece."""

    pieces: int = 3
    terms: int = 3
    primitives: tuple[str, ...] = tuple(PRIMITIVES)
    name: str = "gradient"

    @property
    def kinds(self) -> dict[str, int]:
        """Kinds of decisions and their numbers of options."""
        grids = {role: len(grid) for role, grid in _GRIDS.items()}
        return grids | {
            "pieces": self.pieces, "terms": self.terms + 1, "primitive": len(self.primitives),
            "coefficient kind": len(_KINDS),
        }  # fmt: skip

    def build(self, choose: Choose) -> Genome:
        """A genome of constants from the grids, with coefficients that may be parameters."""
        pieces = 1 + choose("pieces", self.pieces)
        level = _picked(choose, "level")
        cuts = sorted(_picked(choose, "cut") for _ in range(pieces - 1))
        return level, tuple(cuts), tuple(self._piece(choose) for _ in range(pieces))

    def _piece(self, choose: Choose) -> Genome:
        return tuple(self._term(choose) for _ in range(choose("terms", self.terms + 1)))

    def _term(self, choose: Choose) -> Genome:
        primitive = self.primitives[choose("primitive", len(self.primitives))]
        value, _ = _picked(choose, "coefficient")
        kind = _KINDS[choose("coefficient kind", len(_KINDS))]
        # an affine map of x adds nothing to a coefficient and a level
        fixed = primitive == "x"
        slope = (1.0, "const") if fixed else _picked(choose, "slope")
        offset = (0.0, "const") if fixed else _picked(choose, "offset")
        return (value, kind), primitive, slope, offset

    def mutate(self, genome: Genome, rng: np.random.Generator) -> tuple[str, Genome]:
        """One of: insert, remove or change a part, regenerate a piece, perturb a constant, add or
        remove a parameter. Source of the first four: arXiv:2006.03179."""
        operations = {
            "insert": self._insert, "remove": _remove, "change": self._change,
            "regenerate": self._regenerate, "perturb": _perturb, "add parameter": _add_parameter,
            "remove parameter": _remove_parameter,
        }  # fmt: skip
        name = str(rng.choice(list(operations)))
        return name, operations[name](genome, rng)

    def cross(self, a: Genome, b: Genome, rng: np.random.Generator) -> Genome:
        """a with some of its pieces (at least one) from b, counted from the same end, and the level
        of either."""
        pieces, others = list(a[2]), b[2]
        for i in rng.choice(len(pieces), rng.integers(1, len(pieces) + 1), replace=False):
            from_right = i >= len(pieces) / 2
            j = (
                max(len(others) - len(pieces) + int(i), 0)
                if from_right
                else min(int(i), len(others) - 1)
            )
            pieces[i] = others[j]
        return (a, b)[rng.integers(2)][0], a[1], tuple(pieces)

    def spec(self, genome: Genome) -> Spec:
        """The spec of a genome. Raises `SpecError`, also where cuts do not increase."""
        return spec_of(genome)

    def _insert(self, genome: Genome, rng: np.random.Generator) -> Genome:
        level, cuts, pieces = genome
        choose = by_chance(rng)
        if len(pieces) < self.pieces and rng.random() < 0.25:
            i = int(rng.integers(len(pieces)))
            cuts = tuple(sorted([*cuts, _picked(choose, "cut")]))
            return level, cuts, (*pieces[:i], self._piece(choose), *pieces[i:])
        i = int(rng.integers(len(pieces)))
        if len(pieces[i]) == self.terms:
            return genome
        return _replaced(genome, (2, i), (*pieces[i], self._term(choose)))

    def _change(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A primitive, or a number, for another one of the grid."""
        choose = by_chance(rng)
        places = [*_numbers(genome), *_primitives(genome)]
        path, role = places[rng.integers(len(places))]
        if role == "primitive":
            return _replaced(genome, path, self.primitives[choose("", len(self.primitives))])
        grid = _GRIDS[role]
        return _replaced(genome, (*path, 0), grid[choose("", len(grid))])

    def _regenerate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        return _replaced(
            genome, (2, int(rng.integers(len(genome[2])))), self._piece(by_chance(rng))
        )


def _picked(choose: Choose, role: str) -> tuple[float, str]:
    grid = _GRIDS[role]
    return grid[choose(role, len(grid))], "const"


def _numbers(genome: Genome) -> list[tuple[tuple[int, ...], str]]:
    """The paths of all numbers that matter, with their roles."""
    found: list[tuple[tuple[int, ...], str]] = [((0,), "level")]
    found += [((1, i), "cut") for i in range(len(genome[1]))]
    for path, term in _terms(genome):
        used = _ROLES[:1] if term[1] == "x" else _ROLES
        found += [((*path, k), role) for k, role in enumerate(used) if role != "primitive"]
    return found


def _terms(genome: Genome) -> Iterator[tuple[tuple[int, ...], Any]]:
    for i, piece in enumerate(genome[2]):
        for j, term in enumerate(piece):
            yield (2, i, j), term


def _primitives(genome: Genome) -> list[tuple[tuple[int, ...], str]]:
    return [((*path, 1), "primitive") for path, _ in _terms(genome)]


def _at(genome: Genome, path: tuple[int, ...]) -> Any:
    for k in path:
        genome = genome[k]
    return genome


def _replaced(tree: Any, path: tuple[int, ...], value: Any) -> Any:
    if not path:
        return value
    k, *rest = path
    return (*tree[:k], _replaced(tree[k], tuple(rest), value), *tree[k + 1 :])


def _remove(genome: Genome, rng: np.random.Generator) -> Genome:
    level, cuts, pieces = genome
    if len(pieces) > 1 and rng.random() < 0.25:
        i, k = int(rng.integers(len(pieces))), int(rng.integers(len(cuts)))
        return level, cuts[:k] + cuts[k + 1 :], pieces[:i] + pieces[i + 1 :]
    terms = [path for path, _ in _terms(genome)]
    if not terms:
        return genome
    _, i, j = terms[rng.integers(len(terms))]
    return _replaced(genome, (2, i), pieces[i][:j] + pieces[i][j + 1 :])


def _perturb(genome: Genome, rng: np.random.Generator) -> Genome:
    """A number times a factor around 1, or one that may be 0 shifted a little."""
    numbers = _numbers(genome)
    path, role = numbers[rng.integers(len(numbers))]
    value, kind = _at(genome, path)
    if role in ("coefficient", "slope"):
        value *= float(np.exp(0.3 * rng.standard_normal()))
    else:
        value += 0.2 * float(rng.standard_normal())
    return _replaced(genome, path, (float(f"{value:.3g}"), kind))


def _add_parameter(genome: Genome, rng: np.random.Generator) -> Genome:
    constants = [(p, role) for p, role in _numbers(genome) if _at(genome, p)[1] == "const"]
    if not constants:
        return genome
    path, role = constants[rng.integers(len(constants))]
    return _replaced(genome, (*path, 1), str(rng.choice(TRAINED[role])))


def _remove_parameter(genome: Genome, rng: np.random.Generator) -> Genome:
    trained = [p for p, _ in _numbers(genome) if _at(genome, p)[1] != "const"]
    if not trained:
        return genome
    return _replaced(genome, (*trained[rng.integers(len(trained))], 1), "const")
