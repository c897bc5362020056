"""A process of its own for evaluations, kept warm: what a candidate does there costs its time
limit at most.
"""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from integrand.errors import Error
from integrand.search.candidate import Candidate
from integrand.search.rung import Rung
from integrand.search.store import Outcome

START_SECONDS = 300.0  # importing, on a machine that is busy
STILL_SECONDS = 5.0  # between two polls, ten times the usual: we were stopped, or the machine slept
END_SECONDS = 10.0  # of a process whose pipe has ended
MOST_STILL_SECONDS = 1800.0  # of one evaluation: a slow store must not keep one that hangs alive


class Child:
    """Evaluates one candidate at a time. A process that is beyond its time limit is killed with all
    that it has started, and another one begun."""

    def __init__(self, rungs: Sequence[Rung], threads: int = 1) -> None:
        self.rungs, self.threads = rungs, threads
        self._start()

    def _start(self) -> None:
        # a server that imports once and then forks: a new process in milliseconds, and no fork of
        # one that has threads
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["integrand.search.engine"])
        self.pipe, theirs = context.Pipe()
        watched, self.life = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_serve, args=(theirs, watched, self.rungs, self.threads)
        )
        self.process.start()
        theirs.close()
        watched.close()
        self._now("starting", START_SECONDS)

    def _now(self, state: Literal["starting", "ready", "busy"], limit: float = math.inf) -> None:
        self.state, self.limit = state, limit
        self.since = self.looked = time.monotonic()
        self.still = 0.0

    @property
    def left(self) -> float:
        """Seconds to the time limit."""
        return self.since + self.limit - time.monotonic()

    def evaluate(self, place: int, candidate: Candidate) -> None:
        """Begin an evaluation; the child must be ready."""
        self._now("busy", self.rungs[place].seconds)
        with suppress(OSError):  # a process that is gone shows in `poll`
            self.pipe.send((place, candidate))

    def poll(self) -> Outcome | None:
        """What the evaluation came to, once, when it did or its time is over; else None."""
        now = time.monotonic()
        gap = now - self.looked
        if gap > STILL_SECONDS and self.still < MOST_STILL_SECONDS:
            # the child stood still as well
            self.since, self.still = self.since + gap, self.still + gap
        self.looked, spent = now, now - self.since
        if self.pipe.poll():
            try:
                numbers, reason = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join(END_SECONDS)
                return self._again(_death(self.process.exitcode, spent))
            was = self.state
            self._now("ready")
            return Outcome(numbers, reason, spent) if was == "busy" else None
        if spent <= self.limit:
            return None
        return self._again(Outcome(reason=f"took longer than {self.limit:g} s", seconds=spent))

    def _again(self, outcome: Outcome) -> Outcome | None:
        was = self.state
        self.close()
        if was == "starting":
            raise Error(f"a process for evaluations must start, got this: {outcome.reason}")
        self._start()
        return outcome if was == "busy" else None

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.process.pid:
            with suppress(OSError):  # not yet, or no longer, a group
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.life.close()


def _death(code: int | None, spent: float) -> Outcome:
    if code is None:
        return Outcome(reason="closed the pipe to its search", seconds=spent)
    if -code in (signal.SIGKILL, signal.SIGTERM):
        # from outside, a lack of memory included: no fault of the candidate, or not yet
        return Outcome(lost=True)
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return Outcome(reason=f"its process ended with {how}", seconds=spent)


def wait_for(children: Sequence[Child], seconds: float) -> None:
    """Until one of them has something to say or is over its time, at most so long."""
    wait([c.pipe for c in children], max(0.0, min([seconds, *(c.left for c in children)])))


def _serve(pipe: Connection, life: Connection, rungs: Sequence[Rung], threads: int) -> None:
    import torch

    # a group of its own: Ctrl-C is for the parent, and what a rung starts ends with it
    os.setpgrp()
    _killed_with(life)
    threading.Thread(target=_die_with, args=(life,), daemon=True).start()
    torch.set_num_threads(threads)
    pipe.send((None, ""))
    while True:
        try:
            place, candidate = pipe.recv()
        except EOFError:
            return
        pipe.send(_evaluated(rungs[place], candidate))


def _killed_with(life: Connection) -> None:
    """Linux itself kills the group when the other end closes, though a thread that holds the
    interpreter keeps `_die_with` waiting.

    The usual PR_SET_PDEATHSIG would wait for the end of the server, our parent, which lives as long
    as any process that it has forked.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _die_with(life: Connection) -> None:
    """The other end closes when the parent is gone, however it went."""
    with suppress(EOFError, OSError):
        life.recv()
    os.killpg(0, signal.SIGKILL)


def _evaluated(rung: Rung, candidate: Candidate) -> tuple[dict[str, float] | None, str]:
    try:
        found: Any = {name: float(value) for name, value in rung.run(candidate).items()}
    except Error as error:
        return None, " ".join(str(error).split())
    except Exception as error:  # a candidate may break anything; the search goes on
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"
    score = found.get("score", math.nan)
    if not math.isfinite(score):
        return None, f"its score is {score}"
    return {name: value for name, value in found.items() if math.isfinite(value)}, ""
