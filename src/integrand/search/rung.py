"""`Rung`: one step of the ladder of proxies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from integrand.search.candidate import Candidate


@dataclass(frozen=True)
class Rung:
    """A named measurement of a candidate, and who goes on from it.

    Args:
        name: under which its numbers are stored and shown.
        run: the numbers of a candidate, among them "score", lower is better; what is not finite
            counts as refused. Raises `Error` to refuse a candidate, with the reason. It runs in a
            child process and is pickled there: a function of a module, a `functools.partial` of
            one, or an instance of a class of one.
        seconds: time limit of one candidate; beyond it the candidate is refused.
        keep: share of the candidates scored here that go on to the next rung.
    """

    name: str
    run: Callable[[Candidate], Mapping[str, float]]
    seconds: float
    keep: float = 1 / 3
