"""Who runs what: one file per run in a shared folder, kept alive by the process that holds it."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 20.0
STALE_SECONDS = 300.0  # without a beat: the holder is gone


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Within: True if this process holds `name` in `folder`; False if another does.

    A claim is created exclusively, touched every 20 s, and removed at the end. One that was not
    touched for five minutes by the clock of the file system, or whose process on this machine is
    gone, is taken over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not _create(path) and not _take_over(path):
        yield False
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                path.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def _create(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    return True


def _abandoned(path: Path) -> bool:
    probe = path.with_name(f".clock-{socket.gethostname()}-{os.getpid()}")
    try:
        probe.touch()
        age = probe.stat().st_mtime - path.stat().st_mtime
        text = path.read_text()
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    if age > STALE_SECONDS:
        return True
    try:
        holder = json.loads(text)
    except ValueError:
        return False  # being written, or its writer was killed: age will tell
    return holder["host"] == socket.gethostname() and not _alive(holder["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _take_over(path: Path) -> bool:
    """One of several processes that find the same abandoned claim wins.

    The lock is what makes it one: without it, a slow process would remove the claim that a quick
    one has just made in place of the abandoned one.
    """
    lock = path.with_name(f".taking-{path.name}")
    if not _create(lock):
        if _abandoned(lock):
            lock.unlink(missing_ok=True)  # free for the next try
        return False
    try:
        if not _abandoned(path):
            return False
        path.unlink(missing_ok=True)
        return _create(path)
    finally:
        lock.unlink(missing_ok=True)
