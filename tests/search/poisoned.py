"""Rungs that children of the search's tests run: these have to import them by name."""

import ctypes
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from integrand.errors import BackendError, DataError
from integrand.search.candidate import Candidate
from integrand.search.child import Child
from integrand.search.engine import search
from integrand.search.profile import profile
from integrand.search.recipe import Recipe
from integrand.search.rung import Rung
from integrand.search.templates import template_space

NUMBERS = template_space(
    {"name": "numbers", "gradient": "{n}*x + 1", "choices": {"n": list(range(1, 41))}}
)

NO_SPECS = template_space({"name": "none", "gradient": "{n}*x + bad", "choices": {"n": [1, 2]}})


def number(candidate: Candidate) -> Mapping[str, float]:
    """The candidate's own number."""
    return {"score": float(candidate.genome[0]), "cost": -float(candidate.genome[0])}


def halved(candidate: Candidate) -> Mapping[str, float]:
    """Numbers in another order."""
    n = int(candidate.genome[0])
    return {"score": float(n ^ 5)}


def steepness(candidate: Candidate) -> Mapping[str, float]:
    """g(1), of any spec."""
    return {"score": float(profile(candidate.spec).slope(np.array([1.0]))[0])}


def poison(candidate: Candidate) -> Mapping[str, float]:
    """What goes wrong, by the candidate's number."""
    match int(candidate.genome[0]):
        case 1:
            time.sleep(3600)
        case 2:
            return {"score": float("nan")}
        case 3:
            ctypes.string_at(0)
        case 4:
            raise BackendError("gcc must compile it, got status 1")
        case 5:
            raise KeyError("lost")
        case 6:
            os.kill(os.getpid(), signal.SIGKILL)
    return number(candidate)


def broken(candidate: Candidate) -> Mapping[str, float]:
    """Lacks something that all candidates need."""
    raise DataError("no text")


def held(candidate: Candidate, folder: Path, free: int) -> Mapping[str, float]:
    """Says that it begins; all but the first `free` then wait for a file "go"."""
    with (folder / "log").open("a") as log:
        log.write(f"{candidate.key}\n")
    begun = (folder / "log").read_text().count("\n")
    while begun > free and not (folder / "go").exists():
        time.sleep(0.02)
    return number(candidate)


def holding(candidate: Candidate, folder: Path) -> Mapping[str, float]:
    """Keeps the interpreter to itself in C; this process and one that it starts hold a lock."""
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    subprocess.Popen(["sleep", "600"], pass_fds=[lock.fileno()])
    (folder / "begun").touch()
    re.match(r"(a+)+$", "a" * 60 + "b")
    return number(candidate)


def closing(candidate: Candidate) -> Mapping[str, float]:
    """Closes what is not its own, and hangs."""
    os.closerange(3, 200)
    time.sleep(3600)
    return number(candidate)


def evaluating(rung: Rung) -> None:
    """A worker, as far as one evaluation."""
    child = Child((rung,))
    while child.state != "ready":
        child.poll()
    child.evaluate(0, Candidate(NUMBERS.spec(("1",)), ("1",)))
    while True:
        child.poll()
        time.sleep(0.02)


def recipe(*rungs: Rung, strategy: str = "random", evaluations: int = 40, seed: int = 0) -> Recipe:
    return Recipe("test", NUMBERS, strategy, evaluations, rungs, seed, objectives=("cost",))


def waiting(folder: Path) -> Recipe:
    rung = Rung("held", partial(held, folder=folder, free=3), seconds=600)
    return recipe(rung, evaluations=7)


def work(folder: Path) -> None:
    """A worker."""
    search(waiting(folder), folder / "search", quiet=True, beat=1)
