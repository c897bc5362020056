"""One run, one holder: claims exclude, outlive nobody, and are taken over once."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from integrand.train.studies import claims
from integrand.train.studies.claims import claimed


def test_a_claim_excludes_others_and_ends_with_its_block(tmp_path: Path) -> None:
    with claimed(tmp_path, "run") as ours:
        assert ours
        with claimed(tmp_path, "run") as theirs:
            assert not theirs
        with claimed(tmp_path, "other") as other:
            assert other
    assert not list(tmp_path.iterdir())


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    holder = {"host": claims._host(), "pid": int(dead.stdout)}
    (tmp_path / "run").write_text(json.dumps(holder))
    with claimed(tmp_path, "run") as ours:
        assert ours


def test_another_machine_loses_its_claim_by_age_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text(json.dumps({"host": "elsewhere", "pid": os.getpid()}))
    with claimed(tmp_path, "run") as ours:
        assert not ours
    old = time.time() - claims.STALE_SECONDS - 5
    os.utime(path, (old, old))
    with claimed(tmp_path, "run") as ours:
        assert ours


def test_of_many_that_find_an_abandoned_claim_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("{")  # its writer was killed
    old = time.time() - claims.STALE_SECONDS - 5
    os.utime(path, (old, old))
    start, won, done = threading.Barrier(8), [], threading.Event()
    decided = threading.Barrier(9)

    def contend() -> None:
        start.wait()
        with claimed(tmp_path, "run") as ours:
            won.extend([1] * ours)
            decided.wait(30)
            done.wait(30)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    decided.wait(30)
    assert len(won) == 1
    done.set()
    for thread in threads:
        thread.join()


def test_a_holder_beats(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claimed(tmp_path, "run"):
        os.utime(tmp_path / "run", (1, 1))
        deadline = time.monotonic() + 5
        while (tmp_path / "run").stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "run").stat().st_mtime > 2
