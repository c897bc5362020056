"""Where numbers come from: command, versions, processor. Never a path or a host name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("integrand", "torch", "numpy", "sympy", "transformers", "tokenizers", "matplotlib")


def environment() -> dict[str, Any]:
    """Versions of Python and of the packages that matter, processor, threads, system."""
    return {
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sentence(found: dict[str, Any]) -> str:
    """The environment in one line."""
    packages = ", ".join(f"{name} {v}" for name, v in found["packages"].items())
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, "
        f"{found['system']}; Python {found['python']}, {packages}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
