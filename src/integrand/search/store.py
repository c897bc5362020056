"""Where a search is kept: one Optuna study, one trial per evaluation of a candidate at a rung.

Any number of processes share it. Trials are numbered in the order in which they were created, by
the database and under its lock: of two that say the same, the lower number is the one that counts.
No other file knows Optuna, nor does Optuna know strategies: it stores, and tells who is gone.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from integrand.errors import DataError, Error
from integrand.search.candidate import Candidate
from integrand.spec import to_toml

BEAT_SECONDS = 10
STALE_BEATS = 3  # missed: the process is gone
BUSY_SECONDS = 60
OPENINGS = 4
_WARNINGS = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What an evaluation came to: `numbers`, or the `reason` of a refusal; or neither, with
    `same_as` the key of an equivalent candidate; or `lost` with its process."""

    numbers: Mapping[str, float] | None = None
    reason: str = ""
    seconds: float = 0.0
    same_as: str | None = None
    lost: bool = False


@dataclass(frozen=True)
class Record:
    """An evaluation as it is stored; `outcome` None: it waits, or is `running` somewhere.

    `why` it was asked for: "new" from the strategy, on "merit", by "chance", or as a "reference".
    """

    number: int
    trial: int
    rung: str
    key: str
    candidate: Mapping[str, Any]
    why: str
    running: bool = False
    outcome: Outcome | None = None


class Store:
    """Args:
    url: of the database, as SQLAlchemy takes it; or the path of an SQLite file.
    name: of the search in the database.
    settings: what must be the same for all who work on it.
    beat: whole seconds between signs of life; after three missed ones a process is taken for gone.

    Raises `Error` where they are not, `DataError` where there is no such database. A setting that a
    search lacks, as it was begun before there was such a one, is taken from then on.
    """

    def __init__(
        self, url: str | Path, name: str, settings: Mapping[str, Any], *, beat: int = BEAT_SECONDS
    ) -> None:
        self.optuna = _optuna()
        url = _of_file(url) if isinstance(url, Path) else url
        self.beat = beat
        with _refused(url), _unwarned(self.optuna):
            self.backend, self.study = _opened(self.optuna, url, name, beat)
        # with Optuna's cache in front
        self.storage = self.study._storage
        self.id = self.storage.get_study_id_from_name(name)
        self.began = False  # the settings are those of this process
        self._agree(settings, name)
        self.count = 0
        self._open: set[int] = set()
        self._running: dict[int, int] = {}  # ours: trial by number

    def _agree(self, settings: Mapping[str, Any], name: str) -> None:
        known = dict(self._once("settings", dict(settings)))
        for key in settings.keys() - known.keys():
            known[key] = self._once(f"settings.{key}", settings[key])
        for key in {**known, **settings}:
            if known.get(key) != settings.get(key):
                raise Error(
                    f"the search '{name}' was begun with {key} = {known.get(key)}, and must go on "
                    f"so, got {settings.get(key)}; choose another folder, or give the same options"
                )

    def _once(self, name: str, value: Any) -> Any:
        """What the study says of `name`: `value` where nobody has said anything before."""
        from sqlalchemy.exc import IntegrityError

        if name not in self.study.user_attrs:
            said = {"study_id": self.id, "key": name, "value_json": json.dumps(value)}
            row = _attributes().insert().values(said)
            # Optuna would replace what others have said since we looked; the table admits one row
            with suppress(IntegrityError), self.backend.engine.begin() as database:
                database.execute(row)
                self.began |= name == "settings"
        return self.study.user_attrs[name]

    def release(self) -> None:
        """The settings are open again, where they are ours and nothing was ever evaluated."""
        if self.began and not self.storage.get_n_trials(self.id):
            said = _attributes()
            with self.backend.engine.begin() as database:
                database.execute(said.delete().where(said.c.study_id == self.id))

    def news(self) -> list[Record]:
        """Records that are new or have changed since the last call, by number."""
        trials = self.storage.get_all_trials(self.id, deepcopy=False)
        numbers = [*sorted(self._open), *range(self.count, len(trials))]
        self.count = len(trials)
        found = [_record(trials[n]) for n in numbers]
        self._open = {r.number for r in found if r.outcome is None}
        return found

    def add(self, rung: str, candidate: Candidate, why: str, same_as: str = "") -> Record:
        """A new evaluation, for anybody to take, or a candidate that is known to need none."""
        state = self.optuna.trial.TrialState
        # one attribute: each costs Optuna two statements
        asked = {
            "rung": rung, "why": why, "key": candidate.key, "candidate": candidate.to_dict(),
            "spec": to_toml(candidate.spec), "same_as": same_as,
        }  # fmt: skip
        trial = self.optuna.trial.create_trial(
            state=state.PRUNED if same_as else state.WAITING, user_attrs={"asked": asked}
        )
        id_ = self.storage.create_new_trial(self.id, trial)
        number = self.storage.get_trial_number_from_id(id_)
        return Record(number, id_, rung, candidate.key, candidate.to_dict(), why)

    def take(self, record: Record) -> bool:
        """Whether the evaluation is ours now; nobody else can take it then."""
        running = self.optuna.trial.TrialState.RUNNING
        # the first beat comes before the claim: who dies in between leaves no claim without a beat
        self.backend.record_heartbeat(record.trial)
        with suppress(RuntimeError):  # finished by another meanwhile
            if self.storage.set_trial_state_values(record.trial, running):
                self._running[record.number] = record.trial
                return True
        return False

    def finish(self, record: Record, outcome: Outcome) -> None:
        """The outcome of an evaluation that is ours; not kept where it was taken from us."""
        state = self.optuna.trial.TrialState
        self._running.pop(record.number, None)
        values: list[float] | None = None
        if outcome.numbers is not None:
            kept, values = state.COMPLETE, [outcome.numbers["score"]]
            found = {"numbers": dict(outcome.numbers)}
        elif outcome.lost:
            kept, found = state.FAIL, {}
        else:
            kept = state.PRUNED
            found = {"same_as": outcome.same_as} if outcome.same_as else {"reason": outcome.reason}
        with suppress(RuntimeError):
            if found:
                result = {**found, "seconds": round(outcome.seconds, 3)}
                self.storage.set_trial_user_attr(record.trial, "outcome", result)
            self.storage.set_trial_state_values(record.trial, kept, values)

    def give_back_all(self) -> None:
        """What is ours and under way waits again, for anybody: we stopped, nothing was lost."""
        waiting = self.optuna.trial.TrialState.WAITING
        for trial in self._running.values():
            with suppress(RuntimeError):  # lost meanwhile
                self.storage.set_trial_state_values(trial, waiting)
        self._running.clear()

    def lose_stale(self) -> None:
        """Evaluations whose processes have not been heard of for a while are lost."""
        # ours are alive, however long this process stood still
        self._say_alive()
        with _unwarned(self.optuna):
            self.optuna.storages.fail_stale_trials(self.study)

    def _say_alive(self) -> None:
        for trial in list(self._running.values()):
            # one beat may be missed, not all of them
            with suppress(self.optuna.exceptions.StorageInternalError):
                self.backend.record_heartbeat(trial)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Within: the evaluations that are ours are known to be alive."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.beat):
                self._say_alive()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.give_back_all()


def _record(trial: Any) -> Record:
    data, result, state = (
        trial.user_attrs["asked"],
        trial.user_attrs.get("outcome"),
        trial.state.name,
    )
    known = Record(
        trial.number, trial._trial_id, data["rung"], data["key"], data["candidate"], data["why"],
        running=state == "RUNNING",
    )  # fmt: skip
    if state in ("WAITING", "RUNNING"):
        return known
    if state == "FAIL":
        # a process that died between an outcome and its end has finished
        outcome = Outcome(**result) if result else Outcome(lost=True)
    else:
        outcome = Outcome(**result) if result else Outcome(same_as=data["same_as"])
    return replace(known, outcome=outcome)


def _of_file(path: Path) -> str:
    """The URL of an SQLite file by its URI: a plain path would end at its first question mark."""
    from sqlalchemy import URL

    # rendered by SQLAlchemy: 2.1 quotes here what it unquotes when it reads, 2.0 neither
    uri = URL.create("sqlite", database=path.as_uri(), query={"uri": "true"})
    return uri.render_as_string(hide_password=False)


def _attributes() -> Any:
    """Optuna's table of what studies say, one row per study and name."""
    from optuna.storages._rdb.models import StudyUserAttributeModel

    return StudyUserAttributeModel.__table__


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise Error("a search is kept by Optuna: pip install 'integrand[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return optuna


@contextmanager
def _unwarned(optuna: Any) -> Iterator[None]:
    # heartbeats have been marked experimental since Optuna 2.9; filters belong to the process, and
    # threads that restore them in another order would lose this one
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _opened(optuna: Any, url: str, name: str, beat: int) -> tuple[Any, Any]:
    """The database and the study in it, made where they are missing."""
    from sqlalchemy.exc import SQLAlchemyError

    for left in range(OPENINGS - 1, -1, -1):
        try:
            storage = _storage(optuna, url, beat)
            return storage, optuna.create_study(
                storage=storage, study_name=name, load_if_exists=True, direction="minimize"
            )
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
            # processes that begin at once make the same tables
            if not left:
                raise
            time.sleep(random.random())
    raise AssertionError


def _storage(optuna: Any, url: str, beat: int) -> Any:
    lite = url.startswith("sqlite")
    options = {"connect_args": {"timeout": BUSY_SECONDS}} if lite else {"pool_pre_ping": True}
    storage = optuna.storages.RDBStorage(
        url, options, heartbeat_interval=beat, grace_period=STALE_BEATS * beat
    )
    if lite:
        from sqlalchemy import event

        def connect(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            # a commit is then one append; a power cut may take the last ones, a kill cannot
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        def begin(connection: Any) -> None:
            # Optuna reads before it writes: two that did so at once would lock each other out
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        storage.engine.dispose()
        event.listen(storage.engine, "connect", connect)
        event.listen(storage.engine, "begin", begin)
    return storage


@contextmanager
def _refused(url: str) -> Iterator[None]:
    """A database that cannot be used, in one sentence and without the password in its URL."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    kind = url.partition(":")[0]
    try:
        yield
    except ImportError as error:
        raise DataError(
            f"--storage {kind}:... needs a driver, got this: {error.__cause__ or error}; pip "
            "install it, such as psycopg2-binary for postgresql+psycopg2"
        ) from None
    except (SQLAlchemyError, StorageInternalError, ValueError) as error:
        said = str(error.__cause__ or error).splitlines()[0]
        raise DataError(f"--storage must be a database that can be opened: {said}") from None
