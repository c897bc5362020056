"""C source to a loaded shared library: compiler, flags, cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from integrand import cache as store
from integrand.errors import BackendError

log = logging.getLogger("integrand")

# never -ffast-math: linked into a shared object it makes the whole process flush denormals to zero
BASE = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
BASE += ["-fPIC", "-shared"]
# threading jumps through nested selects leaves branches that gcc then cannot vectorise
BASE += ["-fno-thread-jumps"]
NATIVE = ["-march=native"]
WIDE = ["-mprefer-vector-width=512"]
OPENMP = ["-fopenmp"]
COMPILE_SECONDS = 120


@cache
def compiler() -> tuple[str, str]:
    """(path, version) of the system C compiler: `$CC`, else cc, gcc or clang."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return found, done.stdout.partition("\n")[0]
    raise BackendError(
        "the C kernels need a C compiler: none of $CC, cc, gcc, clang was found; "
        'install one (for example gcc), or use impl="reference"'
    )


@cache
def processor() -> str:
    """What -march=native depends on: architecture, model and feature flags."""
    wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    lines = [platform.machine(), platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "\n".join(lines)
    first = text.split("\n\n")[0].splitlines()
    return "\n".join(lines + [line for line in first if line.startswith(wanted)])


def library(text: str) -> ctypes.CDLL:
    """The compiled and loaded source, from the cache where it has it.

    Raises BackendError without a compiler, or with the compiler's words where it fails.
    """
    tool, version = compiler()
    identity = "\n".join([version, *_flags(0), processor(), text])
    key = f"c-{hashlib.sha256(identity.encode()).hexdigest()[:40]}.so"
    if store.read(key) is None:
        with store.locked(key):
            # another process may have built it while this one waited
            if store.read(key) is None:
                store.write(key, _compile(tool, text))
    return ctypes.CDLL(str(store.path(key)))


def _flags(attempt: int) -> list[str]:
    """The flags, without what an unusual compiler may lack on later attempts."""
    wide = WIDE if platform.machine() in ("x86_64", "AMD64") else []
    return [BASE + NATIVE + wide + OPENMP, BASE + NATIVE, BASE][attempt]


def _compile(tool: str, text: str) -> bytes:
    message = ""
    with tempfile.TemporaryDirectory(dir=store.directory(), prefix="building-") as place:
        source, target = Path(place) / "kernel.c", Path(place) / "kernel.so"
        source.write_text(text, encoding="utf-8")
        for attempt in range(3):
            command = [tool, *_flags(attempt), str(source), "-o", str(target), "-lm"]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS
                )
            except subprocess.TimeoutExpired:
                message = message or f"no result within {COMPILE_SECONDS} s"
                continue
            if done.returncode == 0:
                return target.read_bytes()
            message = message or done.stderr.strip()
    raise BackendError(f"{tool} could not compile the generated kernel: {message[:2000]}")
