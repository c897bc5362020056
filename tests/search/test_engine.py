"""A search survives its candidates and its workers, and is the same however often it stopped."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from integrand.errors import Error
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
    recipe = replace(poisoned.recipe(*rungs, strategy="evolution"), references=(last, first))
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
    assert sum(bool(r.outcome and r.outcome.lost) for r in known) == 2
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


def test_a_rung_that_refuses_everybody_alike_stops_the_search(tmp_path: Path) -> None:
    recipe = poisoned.recipe(TWO[0], Rung("broken", poisoned.broken, 5.0))
    with pytest.raises(Error, match=r"'broken' must score.*no text"):
        search(recipe, tmp_path, quiet=True)
