"""Several processes on one store: an evaluation is one process's, and an outcome is kept once."""

import time
from typing import Any

import pytest

import integrand.search.store as store_module
from integrand.errors import DataError, Error
from integrand.search.candidate import Candidate
from integrand.search.store import Outcome, Store
from integrand.search.templates import template_space

pytest.importorskip("optuna")
SPACE = template_space({"name": "s", "gradient": "{n}*x", "choices": {"n": [1, 2, 3]}})
ONE, TWO = (Candidate(SPACE.spec((str(n),)), (str(n),), ("p",), "change") for n in (1, 2))
SCORED = Outcome({"score": 0.5, "cost": 3.0}, seconds=1.5)


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> tuple[Store, Store]:
    """Two processes' views of one store, as far as the database can tell."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/search.db"
    return Store(url, "s", {"seed": 0}, beat=1), Store(url, "s", {"seed": 0}, beat=1)


@pytest.fixture
def stores(opened) -> tuple[Store, Store]:
    """The same, with nothing new to either and nothing to do."""
    for record in opened[0].news():
        if record.outcome is None:
            opened[0].finish(record, Outcome(lost=True))
    for store in opened:
        store._running.clear()
        store.news()
    return opened


def test_an_evaluation_is_taken_by_one_and_its_outcome_seen_by_all(stores) -> None:
    here, there = stores
    asked = here.add("gaussian", ONE, "new")
    (seen,) = there.news()
    assert seen.number == asked.number and Candidate.of(SPACE, seen.candidate) == ONE
    assert there.take(seen) and not here.take(asked)
    assert here.news()[0].running
    there.finish(seen, SCORED)
    (record,) = here.news()
    assert record.outcome == SCORED and here.news() == []


def test_numbers_order_what_two_processes_add(stores) -> None:
    here, there = stores
    added = [
        store.add("gaussian", c, "new") for store, c in ((here, ONE), (there, TWO), (here, TWO))
    ]
    first = added[0].number
    assert [r.number for r in added] == [first, first + 1, first + 2]
    assert [r.key for r in there.news()] == [ONE.key, TWO.key, TWO.key]
    here.add("gaussian", ONE, "new", same_as=TWO.key)
    assert [r.outcome for r in there.news()][-1] == Outcome(same_as=TWO.key)


def test_a_process_that_stood_still_does_not_lose_its_own(stores) -> None:
    slow, other = stores
    asked = slow.add("gaussian", ONE, "new")
    assert slow.take(asked)
    for who, lost in ((slow, False), (other, True)):
        unheard_of(slow)
        who.lose_stale()
        assert (other.news()[0].outcome == Outcome(lost=True)) == lost


def unheard_of(store: Store) -> None:
    """Nobody has shown a sign of life for long."""
    with store.backend.engine.begin() as database:
        database.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")


def test_what_was_lost_is_not_finished_by_the_one_who_lost_it(stores) -> None:
    slow, other = stores
    asked = slow.add("gaussian", ONE, "new")
    assert slow.take(asked)
    other.lose_stale()
    assert other.news()[0].running  # it has beaten a moment ago
    unheard_of(slow)
    other.lose_stale()
    assert other.news()[0].outcome == Outcome(lost=True)
    slow.finish(asked, SCORED)
    again = other.add("gaussian", ONE, "new")
    assert [r.outcome for r in other.news()] == [None] and again.number == asked.number + 1


def test_what_a_process_that_stops_gives_back_waits_and_is_not_lost(stores) -> None:
    stopped, other = stores
    asked = stopped.add("gaussian", ONE, "new")
    for _ in range(4):
        assert stopped.take(asked)
        with stopped.beating():
            (record,) = other.news()
            assert record.running
        (record,) = other.news()
        assert record.outcome is None and not record.running
    assert other.take(record) and not stopped.take(asked)


def test_within_beating_signs_of_life_are_given(stores) -> None:
    here, there = stores
    assert here.take(here.add("gaussian", ONE, "new"))
    unheard_of(here)
    with here.beating():
        time.sleep(1.5)
        there.lose_stale()
        assert there.news()[0].running


def test_an_outcome_that_was_stored_outlives_the_process(stores) -> None:
    """Killed between the numbers and the end of the trial: nothing is made again."""
    here, there = stores
    asked = here.add("gaussian", ONE, "new")
    here.take(asked)
    here.storage.set_trial_user_attr(
        asked.trial, "outcome", {"numbers": dict(SCORED.numbers), "seconds": 1.5}
    )
    unheard_of(here)
    there.lose_stale()
    assert there.news()[0].outcome == SCORED


def test_of_two_that_begin_at_once_with_other_settings_one_is_refused(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, table, first = f"sqlite:///{tmp_path}/s.db", store_module._attributes, []

    def between() -> Any:
        """One has seen that nobody has said anything; now another one comes and says it."""
        monkeypatch.setattr(store_module, "_attributes", table)
        first.append(Store(url, "s", {"seed": 0}))
        return table()

    monkeypatch.setattr(store_module, "_attributes", between)
    with pytest.raises(Error, match="begun with seed = 0"):
        Store(url, "s", {"seed": 1})
    assert first[0].began and not Store(url, "s", {"seed": 0}).began


def test_a_setting_that_a_search_lacks_is_taken_from_then_on(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    Store(url, "s", {"seed": 0})
    for _ in range(2):
        Store(url, "s", {"seed": 0, "text": "a"})
    with pytest.raises(Error, match="begun with text = a"):
        Store(url, "s", {"seed": 0, "text": "b"})


def test_other_settings_are_refused_and_a_password_is_not_told(stores) -> None:
    url = str(stores[0].backend.engine.url)
    with pytest.raises(Error, match="seed = 0, and must go on so, got 1"):
        Store(url, "s", {"seed": 1})
    with pytest.raises(DataError) as refused:
        Store("nosuch://me:secret@host/name", "s", {})
    assert "secret" not in str(refused.value)
