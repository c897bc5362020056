"""Who runs what: one file per run in a shared folder, kept alive by the process that holds it."""

import json
import os
import secrets
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
    text = json.dumps({"host": _host(), "pid": os.getpid(), "claim": secrets.token_hex(8)})
    if not _create(path, text) and not _take_over(path, text):
        yield False
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                if _is(path, text):
                    os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        if _is(path, text):
            path.unlink(missing_ok=True)


def _host() -> str:
    """This machine and, where there are containers, this one's numbering of processes."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _is(path: Path, text: str) -> bool:
    """Whether a claim is still the one made with `text`: a process that slept may have lost it."""
    try:
        return path.read_text() == text
    except OSError:
        return False


def _create(path: Path, text: str) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return True


def _abandoned(path: Path) -> bool:
    # of this call alone: the threads of a process would remove each other's
    probe = path.with_name(f".clock-{secrets.token_hex(8)}")
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
    return holder["host"] == _host() and not _alive(holder["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _take_over(path: Path, text: str) -> bool:
    """One of several processes that find the same abandoned claim wins.

    The lock is what makes it one: without it, a slow process would remove the claim that a quick
    one has just made in place of the abandoned one.
    """
    lock = path.with_name(f".taking-{path.name}")
    if not _create(lock, text):
        if _abandoned(lock):
            lock.unlink(missing_ok=True)  # free for the next try
        return False
    try:
        if not _abandoned(path):
            return False
        path.unlink(missing_ok=True)
        return _create(path, text)
    finally:
        lock.unlink(missing_ok=True)
