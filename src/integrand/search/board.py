"""What a person at the terminal sees of a search: how far it is, how long it takes, who leads."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

from integrand.report.tables import Cell, Table
from integrand.search.history import History
from integrand.search.ladder import PER_CHANCE
from integrand.search.recipe import Recipe
from integrand.search.summary import summary
from integrand.train.progress import clock

EVERY_SECONDS = 5.0
TABLE_SECONDS = 30.0
ROWS, WIDTH = 8, 72


class Board:
    """Lines on stderr every few seconds, and the Pareto front when it has changed."""

    def __init__(self, recipe: Recipe, history: History, quiet: bool) -> None:
        self.recipe, self.history, self.quiet = recipe, history, quiet
        self.begun = self.shown = self.tabled = time.monotonic()
        self.before = 0
        self.table = ""

    def begin(self) -> None:
        """What is known already."""
        self.before = sum(map(len, self.history.seconds))
        if self.history.candidates:
            self._tell(f"{self.recipe.name}: going on; {self._counts()}")

    def show(self, workers: int) -> None:
        """A line, and at times the table."""
        now = time.monotonic()
        if now - self.shown < EVERY_SECONDS:
            return
        self.shown = now
        self._tell(f"{self.recipe.name}: {self._counts()}{self._left(workers)}")
        if now - self.tabled >= TABLE_SECONDS:
            self.tabled = now
            table = front_table(summary(self.recipe, self.history))
            if table != self.table:
                self.table = table
                self._tell(table)

    def _counts(self) -> str:
        ladder = self.history.ladder
        begun = len(ladder.floors[0].begun)
        parts = [f"{begun}/{self.recipe.evaluations} candidates, {len(self.history.same)} the same"]
        for rung, floor in zip(ladder.rungs, ladder.floors, strict=True):
            if floor.scores or floor.refused:
                refused = f" ({len(floor.refused)} refused)" if floor.refused else ""
                parts.append(f"{rung.name} {len(floor.scores)}{refused}")
        return "; ".join(parts)

    def _left(self, workers: int) -> str:
        done = [s for rung in self.history.seconds for s in rung]
        count = len(done) - self.before
        if not count:
            return ""
        # what an evaluation takes besides: to ask for, to store, to wait its turn
        besides = (time.monotonic() - self.begun) * workers / count - statistics.fmean(done)
        seconds, unknown = time_left(self.recipe, self.history, max(0.0, besides))
        more = f" and {', '.join(unknown)}" if unknown else ""
        return f"; about {clock(seconds / workers)}{more} left"

    def _tell(self, text: str) -> None:
        if not self.quiet and text:
            print(text, file=sys.stderr, flush=True)


def time_left(recipe: Recipe, history: History, besides: float = 0.0) -> tuple[float, list[str]]:
    """Seconds of one worker for what the ladder is expected to ask for yet, `besides` the time of
    every evaluation, and the rungs whose time is not known."""
    expected, total, unknown = float(recipe.evaluations), 0.0, []
    for rung, floor, seconds in zip(
        history.ladder.rungs, history.ladder.floors, history.seconds, strict=True
    ):
        done = len(floor.scores) + len(floor.refused)
        left = max(0.0, expected - done)
        if seconds:
            total += left * (statistics.fmean(seconds) + besides)
        elif left >= 1:
            unknown.append(rung.name)
        passing = len(floor.scores) / done if done else 1.0
        climbing = max(done, expected) * passing * rung.keep
        expected = climbing * (1 + 1 / PER_CHANCE if rung.keep < 1 else 1)
    return total, unknown


def front_table(found: Mapping[str, Any]) -> str:
    """The Pareto front in a summary, at the highest rung that scored anybody; best score first."""
    rows = [
        [*(Cell(f"{v:.4g}", "n") for v in entry["objectives"].values()), Cell(_text(entry))]
        for entry in found["front"][:ROWS]
    ]
    scored = [rung["name"] for rung in found["rungs"] if rung["scored"]]
    if not rows:
        return ""
    more = f"\n{len(found['front']) - ROWS} more" if len(found["front"]) > ROWS else ""
    return Table([scored[-1], *found["objectives"][1:], "candidate"], rows).plain() + more


def _text(entry: Mapping[str, Any]) -> str:
    text = entry.get("gradient") or entry["function"]
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
