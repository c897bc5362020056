"""What the records of a store amount to: who is where on the ladder, what was learnt.

Every process reads the same records and comes to the same state, so nothing else need be shared,
and a process that was killed is made again from the store.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from integrand.search.candidate import Candidate, Space
from integrand.search.equivalence import Seen, Signature, signature
from integrand.search.ladder import Ladder
from integrand.search.pareto import scalar
from integrand.search.rung import Rung
from integrand.search.store import Outcome, Record
from integrand.search.strategy import Strategy

MOST_LOST = 3

Job = tuple[int, str]  # the place of a rung, a candidate's key


class History:
    """Args:
    weights: of objectives in the number that decides who climbs (`pareto.scalar`); none: the
        score of the rung alone.
    """

    def __init__(
        self, space: Space, strategy: Strategy, rungs: Sequence[Rung], weights: Mapping[str, float]
    ) -> None:
        self.space, self.strategy, self.weights = space, strategy, weights
        self.ladder = Ladder(rungs)
        self.places = {rung.name: i for i, rung in enumerate(rungs)}
        self.candidates: dict[str, Candidate] = {}
        self.numbers: dict[str, dict[str, float]] = {}
        self.seconds: list[list[float]] = [[] for _ in rungs]
        self.same: dict[str, str] = {}  # keys of candidates not evaluated -> the one that was
        self.open: dict[int, Record] = {}
        self.dropped: dict[Job, str] = {}  # lost and to be made again -> why
        self.lost: Counter[Job] = Counter()
        self._seen = Seen()
        self._first: dict[Job, int] = {}  # the number that counts
        self._doubles: dict[int, str] = {}
        self._asked: dict[str, tuple[Candidate, Signature]] = {}

    @property
    def count(self) -> int:
        """Evaluations asked for or needless, those that were lost and made again counted once."""
        return len(self.same) + sum(len(floor.begun) for floor in self.ladder.floors)

    def find(self, candidate: Candidate) -> str | None:
        """The key of an equivalent candidate met before."""
        if candidate.key in self.candidates:
            return candidate.key
        if candidate.key in self.same:
            return self.same[candidate.key]
        sign = signature(candidate.spec)
        self._asked = {candidate.key: (candidate, sign)}
        return self._seen.find(sign)

    def apply(self, record: Record) -> None:
        """Take note of a record that is new or has changed."""
        job = self.places[record.rung], record.key
        outcome = record.outcome
        if outcome is None:
            self.open[record.number] = record
            self._begin(job, record)
            return
        self.open.pop(record.number, None)
        if outcome.same_as is not None:
            self._repeat(record)
        elif outcome.lost:
            self._lose(job, record)
        elif self._begin(job, record):
            self._settle(job, record.why, outcome)

    def needless(self, record: Record) -> Outcome | None:
        """The outcome of an evaluation that need not be made."""
        job = self.places[record.rung], record.key
        if record.number in self._doubles:
            return Outcome(same_as=self._doubles[record.number])
        if self._first.get(job, record.number) < record.number:
            return Outcome(same_as=record.key)
        if self.lost[job] >= MOST_LOST:
            return Outcome(reason=f"was lost with its process {MOST_LOST} times")
        return None

    def _begin(self, job: Job, record: Record) -> bool:
        """False for a candidate that is equivalent to one met before."""
        place, key = job
        if key not in self.candidates:
            candidate, sign = self._asked.pop(key, None) or self._read(record)
            if found := self._seen.find(sign):
                self._doubles[record.number] = found
                return False
            self._seen.add(key, sign)
            self.candidates[key] = candidate
        self._first.setdefault(job, record.number)
        self.dropped.pop(job, None)
        self.ladder.begin(place, key, record.why)
        return True

    def _read(self, record: Record) -> tuple[Candidate, Signature]:
        candidate = Candidate.of(self.space, record.candidate)
        return candidate, signature(candidate.spec)

    def _lose(self, job: Job, record: Record) -> None:
        self.lost[job] += 1
        if self._begin(job, record) and self._first[job] == record.number:
            del self._first[job]
            self.ladder.lose(*job)
            self.dropped[job] = record.why

    def _repeat(self, record: Record) -> None:
        if record.key in self.candidates or record.key in self.same:
            return
        candidate, sign = self._asked.pop(record.key, None) or self._read(record)
        # found anew: what rules of equivalence that have changed since keep apart may be asked for
        found = self._seen.find(sign)
        if found is None:
            return
        self.same[record.key] = found
        for place in range(len(self.places) - 1, -1, -1):
            floor = self.ladder.floors[place]
            if found in floor.refused:
                return self.strategy.tell(candidate, None)
            if found in floor.scores:
                return self.strategy.tell(candidate, self.ladder.standing(place, found))

    def _settle(self, job: Job, why: str, outcome: Outcome) -> None:
        place, key = job
        self.seconds[place].append(outcome.seconds)
        if outcome.numbers is None:
            self.ladder.refuse(place, key, outcome.reason)
            standing = None
        else:
            numbers = {**self.numbers.get(key, {}), **outcome.numbers}
            self.numbers[key] = numbers
            merit = scalar(numbers, self.weights) if self.weights else numbers["score"]
            self.ladder.score(
                place, key, outcome.numbers["score"], math.inf if merit is None else merit
            )
            if self.ladder.climbs(place, key):
                return  # there is more to come
            standing = self.ladder.standing(place, key)
        # one taken along by chance has been told already, and stands beside better ones now; a
        # reference is of no space
        if why not in ("chance", "reference"):
            self.strategy.tell(self.candidates[key], standing)
