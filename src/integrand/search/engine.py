"""The loop of a search: ask, evaluate in processes of their own, store, and go up the ladder."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from integrand.errors import Error
from integrand.search.board import Board
from integrand.search.candidate import Candidate
from integrand.search.child import Child, wait_for
from integrand.search.conclude import known
from integrand.search.history import History
from integrand.search.recipe import STRATEGIES, Recipe
from integrand.search.store import BEAT_SECONDS, Record, Store
from integrand.search.summary import summary
from integrand.train.files import write_json
from integrand.train.progress import Interruption

ALIKE = 6  # so many refused alike, or lacking a number, at a rung: it is broken, not they
MOST_REPEATS = 500  # in a row: the space has no more to offer
POLL_SECONDS = 0.5
SUMMARY_SECONDS = 60.0


def search(
    recipe: Recipe,
    out_dir: Path | str,
    *,
    storage: str | None = None,
    workers: int = 1,
    threads: int = 1,
    quiet: bool = False,
    beat: int = BEAT_SECONDS,
) -> dict[str, Any]:
    """Evaluate what `recipe` still lacks; the summary, also in out_dir/summary.json.

    The store is out_dir/search.db, or the database at the URL `storage`, where the search has the
    name of the folder. Any number of processes may call this at once. Raises `Error` where the
    store was begun with other settings; `KeyboardInterrupt` at a first Ctrl-C or SIGTERM: the same
    call goes on.

    Args:
        workers: evaluations side by side, each in a process of its own.
        threads: of torch in each.
        beat: of the store.
    """
    out_dir = Path(out_dir)
    recipe.check()
    settings = recipe.settings()
    out_dir.mkdir(parents=True, exist_ok=True)
    kept = storage or (out_dir / "search.db").resolve()
    store = Store(kept, out_dir.resolve().name, settings, beat=beat)
    try:
        # after the store has agreed: a search of other data must not overwrite what this one made
        if recipe.prepare:
            recipe.prepare()
    except Error:
        # mended options need no other folder
        store.release()
        raise
    run = _Run(recipe, store, out_dir, quiet)
    run.sync()
    run.board.begin()
    with Interruption() as stop, store.beating():
        children: list[Child] = []
        try:
            children += [Child(recipe.rungs, threads) for _ in range(workers)]
            run.all(children, stop)
        finally:
            for child in children:
                child.close()
            found = run.write()
    return found


class _Run:
    """One process's part in a search."""

    def __init__(self, recipe: Recipe, store: Store, out_dir: Path, quiet: bool) -> None:
        self.recipe, self.store, self.out_dir = recipe, store, out_dir
        self.strategy = STRATEGIES[recipe.strategy](recipe.space, recipe.seed)
        self.history = History(recipe.space, self.strategy, recipe.rungs, recipe.weights)
        self.board = Board(recipe, self.history, quiet)
        self.own = secrets.randbits(32)
        self.references = [Candidate.reference(spec) for spec in recipe.references]
        self.exhausted = False
        self.running: dict[Child, Record] = {}
        self.looked = self.written = time.monotonic()

    def all(self, children: list[Child], stop: Interruption) -> None:
        """Until there is nothing left to do, here or elsewhere."""
        while not stop.asked:
            idle = False
            for child in children:
                if outcome := child.poll():
                    self.store.finish(self.running.pop(child), outcome)
                if child.state == "ready":
                    record = self.claim()
                    idle = record is None
                    if record:
                        self.running[child] = record
                        candidate = self.history.candidates[record.key]
                        child.evaluate(self.history.places[record.rung], candidate)
            if idle and not self.history.open:
                return
            self.upkeep()
            self.board.show(len(children))
            wait_for(children, POLL_SECONDS)
        raise KeyboardInterrupt(f"stopped; the same command goes on with {self.out_dir}")

    def guard(self) -> None:
        """Raises where a rung seems broken, before it has refused the best of a search, or where
        the first of its candidates lack a number that is asked for."""
        for rung, floor in zip(self.recipe.rungs[1:], self.history.ladder.floors[1:], strict=True):
            if (
                not floor.scores
                and len(floor.refused) >= ALIKE
                and len({*floor.refused.values()}) == 1
            ):
                reason = next(iter(floor.refused.values()))
                raise Error(
                    f"the rung '{rung.name}' must score candidates, got {ALIKE} refused with the "
                    f"same words: {reason}; mend it and begin in another folder"
                )
        floors = self.history.ladder.floors
        for what, names, floor in (
            ("weight", self.recipe.weights, floors[0]),
            ("objective", self.recipe.objectives, floors[-1]),
        ):
            some = [self.history.numbers[key] for key in islice(floor.scores, ALIKE)]
            known = {name for numbers in some for name in numbers}
            if len(some) == ALIKE and (odd := set(names) - known):
                raise Error(
                    f"the {what} '{min(odd)}' must be a number that the rungs give, got "
                    f"{', '.join(sorted(known))}; mend its name"
                )

    def sync(self) -> None:
        """Take note of what this and other processes have stored."""
        for record in self.store.news():
            self.history.apply(record)

    def claim(self) -> Record | None:
        """An evaluation that is ours now; None where nothing can be begun at present."""
        self.sync()
        self.guard()
        while record := self.waiting() or self.added():
            if not self.store.take(record):
                self.sync()
                continue
            if record.number == self.store.count:
                # nothing has come in between: no need to look
                self.history.apply(replace(record, running=True))
            else:
                self.sync()
            outcome = self.history.needless(record)
            if outcome is None:
                return record
            self.store.finish(record, outcome)
            self.sync()
        return None

    def waiting(self) -> Record | None:
        """An evaluation that was asked for and that nobody makes."""
        return next((r for r in self.history.open.values() if not r.running), None)

    def added(self) -> Record | None:
        """A new evaluation, asked for."""
        history, rungs = self.history, self.recipe.rungs
        rng = np.random.default_rng((self.recipe.seed, history.count))
        if history.dropped:
            (place, key), why = next(iter(history.dropped.items()))
        elif step := history.ladder.next(rng):
            place, key, why = step
        elif candidate := self.reference():
            return self.store.add(rungs[0].name, candidate, "reference")
        elif candidate := self.asked():
            return self.store.add(rungs[0].name, candidate, "new")
        else:
            return None
        return self.store.add(rungs[place].name, history.candidates[key], why)

    def reference(self) -> Candidate | None:
        """The next one that nobody has begun."""
        while self.references:
            if self.history.find(self.references[0]) is None:
                return self.references[0]
            del self.references[0]
        return None

    def asked(self) -> Candidate | None:
        """The strategy's next candidate that is equivalent to none before."""
        repeats = 0
        while (
            not self.exhausted
            and len(self.history.ladder.floors[0].begun) < self.recipe.evaluations
        ):
            self.strategy.reseed(self.recipe.seed, self.history.count, repeats, self.salt())
            candidate = self.strategy.ask()
            if candidate is None:
                self.exhausted = True
                return None
            found = self.history.find(candidate)
            if found is None:
                return candidate
            if candidate.key not in self.history.same and candidate.key != found:
                self.store.add(self.recipe.rungs[0].name, candidate, "new", same_as=found)
                self.sync()
            repeats += 1
            self.exhausted = repeats > MOST_REPEATS and self.recipe.strategy != "exhaustive"
        return None

    def salt(self) -> int:
        """0 while we are alone: the search is repeatable. Else a number of this process's own, lest
        several ask for the same."""
        ours = {record.number for record in self.running.values()}
        return 0 if ours.issuperset(self.history.open) else self.own

    def upkeep(self) -> None:
        now = time.monotonic()
        if now - self.looked > self.store.beat:
            self.looked = now
            self.store.lose_stale()
        if now - self.written > SUMMARY_SECONDS:
            self.write()

    def write(self) -> dict[str, Any]:
        """summary.json, as far as it goes."""
        self.written = time.monotonic()
        found = {**summary(self.recipe, self.history), "confirmed": known(self.out_dir)}
        write_json(self.out_dir / "summary.json", found)
        return found
