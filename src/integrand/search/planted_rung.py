"""A rung whose best candidate is known: how far a gradient is from that of a catalogue row."""

from __future__ import annotations

from functools import cache, partial

from integrand.errors import Error
from integrand.search.candidate import Candidate
from integrand.search.planted import planted
from integrand.search.rung import Rung
from integrand.spec import row


def distance(candidate: Candidate, target: str) -> dict[str, float]:
    """The score is `planted`'s. Raises `Error` where rung 0 refuses the candidate."""
    score = _objective(target)(candidate)
    if score is None:
        raise Error("the candidate is no activation")
    return {"score": score}


_objective = cache(lambda target: planted(row(target).spec))


def planted_rung(target: str, keep: float = 1 / 3) -> Rung:
    """`distance` to a row of the catalogue."""
    return Rung("planted", partial(distance, target=target), seconds=10.0, keep=keep)
