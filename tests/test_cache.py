"""The cache: private, verified, atomic, one builder at a time."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from integrand import cache


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTEGRAND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_written_is_read(place: Path) -> None:
    assert cache.read("k") is None
    cache.write("k", b"content\x00\n")
    assert cache.read("k") == b"content\x00\n"
    assert cache.directory() == place
    assert [p.name for p in place.iterdir()] == ["k"]


@pytest.mark.parametrize("damage", [b"", b"content", b"other" * 40])
def test_a_damaged_entry_is_absent(
    place: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    target = cache.write("k", b"content" * 20)
    target.write_bytes(damage)
    assert cache.read("k") is None
    assert "damaged" in caplog.text


def test_one_changed_byte_is_noticed(place: Path) -> None:
    target = cache.write("k", b"content" * 20)
    data = bytearray(target.read_bytes())
    data[3] ^= 1
    target.write_bytes(bytes(data))
    assert cache.read("k") is None


def test_the_directory_is_private(place: Path) -> None:
    place.mkdir(mode=0o755)
    assert stat.S_IMODE(cache.directory().stat().st_mode) == 0o700


@pytest.mark.parametrize("key", ["../k", "", "a/b", ".hidden", "k\n"])
def test_a_key_cannot_leave_the_directory(place: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cache key"):
        cache.write(key, b"")


def test_a_place_that_cannot_be_used_gives_way_to_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("INTEGRAND_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache.directory().parent == tmp_path
    assert "cannot be used" in caplog.text


def test_a_link_to_somewhere_else_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.setenv("INTEGRAND_CACHE", str(tmp_path / "link"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache.directory() == tmp_path / f"integrand-{os.geteuid()}"


def test_a_lock_is_exclusive_and_gives_up_in_time(place: Path) -> None:
    with cache.locked("k") as first, cache.locked("k", timeout=0.05) as second:
        assert first and not second
    with cache.locked("k", timeout=0.05) as again:
        assert again


# one process imports the package, then splits in eight: each compiles and runs the same source
CROWD = """
import os, sys
from integrand.kernels.c_build import library

children = []
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        ok = library("int answer(void) { return 42; }").answer() == 42
        os._exit(0 if ok else 1)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""


def test_eight_processes_compile_once_and_a_corrupted_kernel_is_rebuilt(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("cc") or shutil.which("gcc")
    assert real is not None
    count, wrapper = tmp_path / "count", tmp_path / "counting-cc"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *kernel.c*) printf x >> "{count}";; esac\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    command = [sys.executable, "-c", CROWD]
    subprocess.run([*command, "8"], check=True)
    assert count.read_bytes() == b"x"
    (library,) = place.glob("c-*.so")
    library.write_bytes(library.read_bytes()[:5000])
    subprocess.run([*command, "2"], check=True)
    assert count.read_bytes() == b"xx"


def test_a_file_system_without_locks_is_told_from_a_lock_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock = tmp_path / "lock"
    with cache.locked_file(lock, 0.0) as held, cache.locked_file(lock, 0.0) as again:
        assert (held, again) == (True, False)

    def refuse(*given: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with cache.locked_file(lock, 60.0) as held:
        assert held is None
