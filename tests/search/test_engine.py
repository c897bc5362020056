"""A search survives its candidates and its workers, and is the same however often it stopped."""

import fcntl
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from integrand.errors import DataError, Error
from integrand.search.child import Child
from integrand.search.engine import search
from integrand.search.evolution import Evolution
from integrand.search.recipe import Recipe
from integrand.search.rung import Rung
from integrand.search.store import Record, Store
from integrand.spec import Param, Spec, to_toml

# children import their rungs by name
sys.path.append(str(Path(__file__).parent))
import poisoned

pytest.importorskip("optuna")
LIMIT = 1.0  # of a machine that is busy
TWO = (Rung("number", poisoned.number, 5.0, 0.5), Rung("halved", poisoned.halved, 5.0))


def store(folder: Path, recipe: Recipe) -> Store:
    return Store(f"sqlite:///{folder / 'search.db'}", folder.name, recipe.settings())


def records(folder: Path, recipe: Recipe) -> list[Record]:
    return store(folder, recipe).news()


def test_a_poisoned_candidate_costs_its_time_and_is_recorded(tmp_path: Path) -> None:
    recipe = poisoned.recipe(
        Rung("poison", poisoned.poison, LIMIT), strategy="exhaustive", evaluations=8
    )
    found = search(recipe, tmp_path, quiet=True)
    reasons = {int(r.candidate["genome"][0]): r.outcome.reason for r in records(tmp_path, recipe)}
    assert reasons == {
        1: f"took longer than {LIMIT:g} s",
        2: "its score is nan",
        3: "its process ended with SIGSEGV",
        4: "gcc must compile it, got status 1",
        5: "KeyError: 'lost'",
        6: "was lost with its process 3 times",
        7: "",
        8: "",
    }
    assert [entry["scores"]["poison"] for entry in found["ranking"]] == [7.0, 8.0]
    assert found["evaluated"] == 8 and found["rungs"][0]["refused"] == 6
    assert {r["reason"] for r in found["rungs"][0]["reasons"]} == {*reasons.values()} - {""}


def test_time_that_we_stood_still_is_not_the_candidates() -> None:
    child = Child.__new__(Child)
    child.pipe = SimpleNamespace(poll=lambda: False)  # pyrefly: ignore
    child._now("busy", 10.0)
    child.since, child.looked = child.since - 104, child.looked - 100
    assert child.poll() is None and child.left == pytest.approx(6, abs=1)


def test_a_store_that_takes_its_time_does_not_keep_a_hanging_candidate_alive(monkeypatch) -> None:
    child = Child.__new__(Child)
    child.pipe = SimpleNamespace(poll=lambda: False)  # pyrefly: ignore
    monkeypatch.setattr(Child, "_again", lambda self, outcome: outcome)
    child._now("busy", 10.0)
    for _ in range(400):
        child.since, child.looked = child.since - 6, child.looked - 6
        if outcome := child.poll():
            break
    assert "took longer" in outcome.reason


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread of the child has to do it")
def test_who_holds_the_interpreter_dies_with_the_search_and_what_it_started_too(
    tmp_path: Path,
) -> None:
    rung = Rung("holding", partial(poisoned.holding, folder=tmp_path), 600.0)
    worker = multiprocessing.get_context("forkserver").Process(
        target=poisoned.evaluating, args=(rung,)
    )
    worker.start()
    wait_until((tmp_path / "begun").exists)
    with (tmp_path / "lock").open("w") as lock:
        assert not locked(lock)
        worker.kill()
        # a lock ends with the last process that has it
        wait_until(lambda: locked(lock))


def locked(file: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_candidate_that_closes_its_pipe_and_hangs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrand.search.child.END_SECONDS", 0.2)
    recipe = poisoned.recipe(Rung("closing", poisoned.closing, 600.0), evaluations=1)
    assert search(recipe, tmp_path, quiet=True)["rungs"][0]["reasons"] == [
        {"reason": "closed the pipe to its search", "candidates": 1}
    ]


def test_a_search_that_was_stopped_is_the_one_that_was_not(tmp_path: Path) -> None:
    def made(folder: str, *evaluations: int) -> tuple[list, dict]:
        for n in evaluations:
            recipe = poisoned.recipe(*TWO, strategy="evolution", evaluations=n)
            found = search(recipe, tmp_path / folder, quiet=True)
        kept = records(tmp_path / folder, recipe)
        return [
            (r.rung, r.key, r.why, r.candidate, r.outcome and r.outcome.numbers) for r in kept
        ], found

    (stopped, first), (whole, second) = made("a", 4, 12), made("b", 12)
    assert stopped == whole
    assert {why for _, _, why, *_ in whole} == {"new", "merit", "chance"}
    timeless = [{k: v for k, v in f.items() if k != "rungs"} for f in (first, second)]
    assert timeless[0] == timeless[1]
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["front"] == json.loads(
        json.dumps(first["front"])
    )
    rungs = first["rungs"]
    assert (
        rungs[0]["pairs"] == rungs[1]["scored"] >= 6
        and rungs[0]["pairs_by_chance"] == rungs[1]["by_chance"]
    )
    assert -1 <= rungs[0]["rank_correlation"] <= 1


def test_references_come_first_reach_the_end_and_are_told_to_no_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs = (Rung("steep", poisoned.steepness, 5.0, 0.5), Rung("again", poisoned.steepness, 5.0))
    last = Spec(name="last", gradient="99*x + 2")
    first = Spec(name="first", gradient="1 if x > 0 else a", params={"a": Param(0.1)})
    recipe = replace(
        poisoned.recipe(*rungs, strategy="evolution"), references=(last, first), objectives=()
    )
    told: list[str] = []
    tell = Evolution.tell
    monkeypatch.setattr(
        Evolution, "tell", lambda self, c, score: (told.append(c.key), tell(self, c, score))[1]
    )
    # stopped and read back in between
    for n in (3, 12):
        found = search(replace(recipe, evaluations=n), tmp_path, quiet=True)
    kept = records(tmp_path, recipe)
    assert [r.key for r in kept[:2]] == [last.sha256, last.sha256]
    assert sum(r.why == "reference" for r in kept) == 4
    assert told and not {last.sha256, first.sha256} & {*told}
    steep, again = (r["scored"] for r in found["rungs"])
    assert 4 < again < steep == 12
    worst, best = found["references"]
    assert (worst["name"], best["name"]) == ("last", "first") and best["spec"] == to_toml(first)
    assert worst["places"] == {"steep": [steep, steep], "again": [again, again]}
    assert best["places"] == {"steep": [1, steep], "again": [1, again]}
    with pytest.raises(Error, match="begun with references"):
        search(replace(recipe, references=()), tmp_path, quiet=True)


def test_kill_9_of_one_of_two_workers_loses_and_repeats_nothing(tmp_path: Path) -> None:
    recipe, folder = poisoned.waiting(tmp_path), tmp_path / "search"
    victim = multiprocessing.get_context("forkserver").Process(
        target=poisoned.work, args=(tmp_path,)
    )
    victim.start()
    before: set[str] = set()

    def kill() -> None:
        try:
            before.update(done_when(folder, recipe, running=2))
        finally:
            os.kill(victim.pid, signal.SIGKILL)
            (tmp_path / "go").touch()

    threading.Thread(target=kill).start()
    search(recipe, folder, quiet=True, beat=1)
    known = records(folder, recipe)
    finished = [r.key for r in known if r.outcome and r.outcome.numbers]
    (lost,) = (r.key for r in known if r.outcome and r.outcome.lost)
    assert len(before) == 3 and len(finished) == len({*finished}) == 7
    # what was under way was made again, and nothing else
    assert Counter((tmp_path / "log").read_text().split()) == Counter([*finished, lost])


def done_when(folder: Path, recipe: Recipe, running: int) -> set[str]:
    """The candidates that were scored, as soon as so many are under way that wait."""
    while not (folder / "search.db").exists():
        time.sleep(0.05)
    view, known = store(folder, recipe), {}
    end = time.monotonic() + 120
    while time.monotonic() < end:
        known |= {r.number: r for r in view.news()}
        done = {r.key for r in known.values() if r.outcome}
        if len(done) == 3 and sum(r.running for r in known.values()) == running:
            return done
        time.sleep(0.05)
    raise AssertionError("two evaluations must be under way")


def test_ctrl_c_leaves_a_search_that_goes_on(tmp_path: Path) -> None:
    recipe, folder = poisoned.waiting(tmp_path), tmp_path / "search"

    def interrupt() -> None:
        try:
            done_when(folder, recipe, running=2)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt, match="goes on"):
        search(recipe, folder, quiet=True, workers=2)
    known = records(folder, recipe)
    done = {r.key for r in known if r.outcome and r.outcome.numbers}
    assert json.loads((folder / "summary.json").read_text())["evaluated"] == len(done) == 3
    assert [r.running for r in known if r.outcome is None] == [False, False]
    assert not any(r.outcome and r.outcome.lost for r in known)
    (tmp_path / "go").touch()
    assert search(recipe, folder, quiet=True, workers=2)["evaluated"] == 7
    begun = Counter((tmp_path / "log").read_text().split())
    assert all(begun[key] == 1 for key in done)
    search(recipe, tmp_path / "whole", quiet=True)
    assert {r.key for r in records(tmp_path / "whole", recipe)} == {*begun}


def test_other_settings_on_the_same_folder_are_refused(tmp_path: Path) -> None:
    recipe = poisoned.recipe(TWO[0], evaluations=1)
    records(tmp_path, recipe)
    for change in (
        {"seed": 1},
        {"strategy": "evolution"},
        {"weights": {"cost": 1}},
        {"rungs": TWO},
    ):
        with pytest.raises(Error, match=f"begun with {min(change)} = ") as refused:
            search(replace(recipe, **change), tmp_path, quiet=True)
        assert "choose another folder" in str(refused.value) and "\n" not in str(refused.value)


def unreadable() -> None:
    raise DataError("no such text")


def test_a_search_that_cannot_begin_binds_no_folder(tmp_path: Path) -> None:
    recipe = poisoned.recipe(TWO[0], evaluations=1)
    with pytest.raises(DataError, match="existing file"):
        search(replace(recipe, data=str(tmp_path / "mistyped.txt")), tmp_path / "s", quiet=True)
    with pytest.raises(DataError, match="no such text"):
        search(replace(recipe, seed=7, prepare=unreadable), tmp_path / "s", quiet=True)
    assert search(recipe, tmp_path / "s", quiet=True)["evaluated"] == 1
    # one that has begun stays bound
    with pytest.raises(DataError, match="no such text"):
        search(replace(recipe, prepare=unreadable), tmp_path / "s", quiet=True)
    with pytest.raises(Error, match="begun with seed = 0"):
        search(replace(recipe, seed=7), tmp_path / "s", quiet=True)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a?mode=ro&{b}%20 #c"
    search(poisoned.recipe(TWO[0], evaluations=1), folder, quiet=True)
    assert (folder / "search.db").exists() and [*tmp_path.iterdir()] == [folder]


def test_other_text_at_the_same_path_is_another_search(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    recipe = replace(poisoned.recipe(TWO[0]), data=str(text))
    before = recipe.settings()
    assert before == recipe.settings()
    text.write_text("two")
    changed = {key for key, value in recipe.settings().items() if before[key] != value}
    assert changed == {"text"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"weights": {"score": math.nan}}, "weight of 'score' must be finite"),
        ({"rungs": (replace(TWO[0], keep=7),)}, "keep a share from 0 to 1, got 5.0 and 7"),
        ({"rungs": (replace(TWO[0], seconds=-1),)}, "seconds > 0"),
        ({"rungs": (replace(TWO[0], seconds=math.nan),)}, "seconds > 0"),
        ({"space": poisoned.NO_SPECS}, "none of .* is a spec; last: .*bad"),
        ({"space": poisoned.NO_SPECS, "strategy": "exhaustive"}, "none of 2 .* last: .*bad"),
    ],
)
def test_what_is_no_search_is_refused(change: dict, message: str) -> None:
    with pytest.raises(Error, match=message):
        replace(poisoned.recipe(TWO[0]), **change).check()


@pytest.mark.parametrize(
    "change", [{"weights": {"score": 1.0, "scroe": 1.0}}, {"objectives": ("csot", "cost")}]
)
def test_a_number_that_no_rung_gives_is_asked_for_in_vain(tmp_path: Path, change: dict) -> None:
    recipe = replace(poisoned.recipe(TWO[0]), **change)
    with pytest.raises(Error, match=r"'(scroe|csot)' must be a number.* got cost, score"):
        search(recipe, tmp_path, quiet=True)
    assert len(records(tmp_path, recipe)) < 8


def test_a_rung_that_refuses_everybody_alike_stops_the_search(tmp_path: Path) -> None:
    recipe = poisoned.recipe(TWO[0], Rung("broken", poisoned.broken, 5.0))
    with pytest.raises(Error, match=r"'broken' must score.*no text"):
        search(recipe, tmp_path, quiet=True)
