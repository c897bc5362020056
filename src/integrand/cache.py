"""A directory of verified, content-addressed files, safe for many processes at once.

The directory belongs to the user with mode 0700: `$INTEGRAND_CACHE`, else `integrand` in
`$XDG_CACHE_HOME` or `~/.cache`, else, where that cannot be written, one in the temporary directory.
Each file ends with the SHA-256 of what precedes it (a shared object may: loaders ignore the rest).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

log = logging.getLogger("integrand")
MARK = b"\nintegrand sha256 "
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


def directory() -> Path:
    """The cache directory, created if need be."""
    return _directory(
        os.environ.get("INTEGRAND_CACHE"), os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME")
    )


@cache
def _directory(chosen: str | None, xdg: str | None, home: str | None) -> Path:
    user = getattr(os, "geteuid", lambda: 0)()
    candidates = [Path(chosen)] if chosen else []
    if not chosen and (xdg or home):
        candidates.append(Path(xdg or str(Path(home or "") / ".cache")) / "integrand")
    candidates.append(Path(tempfile.gettempdir()) / f"integrand-{user}")
    for candidate in candidates:
        try:
            return _owned(candidate.absolute())
        except OSError as error:
            log.warning("cache directory %s cannot be used (%s)", candidate, error)
    return Path(tempfile.mkdtemp(prefix="integrand-"))


def _owned(path: Path) -> Path:
    """The directory, made private; OSError if it is another user's or cannot be written."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is not a directory of its own")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
    with tempfile.TemporaryFile(dir=path):
        return path


def path(key: str) -> Path:
    """Where the entry lies, whether it exists or not. Keys are letters, digits, `_.-`."""
    if not KEY.fullmatch(key):
        raise ValueError(f"a cache key is letters, digits and _.-, got {key!r}")
    return directory() / key


def read(key: str) -> bytes | None:
    """The entry's content; None if it is absent, truncated or altered."""
    try:
        data = path(key).read_bytes()
    except OSError:
        return None
    content, mark, digest = data.rpartition(MARK)
    if not mark or digest.decode("ascii", "replace") != hashlib.sha256(content).hexdigest():
        log.warning("cache entry %s is damaged and will be rebuilt", key)
        return None
    return content


def write(key: str, content: bytes) -> Path:
    """Store the entry atomically: readers see all of it or nothing."""
    return _replace(path(key), content + MARK + hashlib.sha256(content).hexdigest().encode())


def plain(key: str, content: bytes) -> Path:
    """A file with this content and nothing else, for readers that a trailer would disturb.

    For content that is made anew each time: what lies there is compared with it before use.
    """
    target = path(key)
    try:
        same = target.read_bytes() == content
    except OSError:
        same = False
    return target if same else _replace(target, content)


def _replace(target: Path, content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix="writing-", delete=False) as file:
        try:
            file.write(content)
            file.close()
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return target


@contextlib.contextmanager
def locked(key: str, timeout: float = 60.0) -> Iterator[bool]:
    """Hold the entry's lock between processes; False if it could not be had within `timeout` s.

    Whoever gets False may go on: writing is atomic, so the worst is work done twice.
    """
    with locked_file(path(f"{key}.lock"), timeout) as held:
        yield bool(held)


@contextlib.contextmanager
def locked_file(lock: Path, timeout: float) -> Iterator[bool | None]:
    """Hold a file's lock between processes; False if it could not be had within `timeout` s.

    None where files cannot be locked.
    """
    with lock.open("ab") as file:
        held = _acquire(file.fileno(), timeout)
        # closing the file releases the lock, also when the process dies
        yield held


def _acquire(descriptor: int, timeout: float) -> bool | None:
    try:
        import fcntl
    except ImportError:
        return None
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        except OSError:  # some network file systems have no locks
            return None
