"""SymPy's integrator behind a time limit: `integrate` can hang, so it runs in its own process.

Text of the grammar goes in and comes out; an answer outside the grammar counts as none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import sympy as sp

from integrand.derivation.symbols import X, elementary, to_sympy
from integrand.errors import SpecError
from integrand.spec import parse

# the package as a bare namespace: its own __init__ would import torch, three quarters of the start
_START = """
import runpy, sys, types
package = sys.modules["integrand"] = types.ModuleType("integrand")
package.__path__ = sys.argv[1:]
runpy.run_module("integrand.derivation.sympy_box", run_name="__main__")
"""
_PACKAGE = str(Path(__file__).parents[1])


def integrate(expr: Any, seconds: float) -> Any | None:
    """SymPy's antiderivative in x of an expression of x alone, None if there is none in time."""
    text = sp.sstr(elementary(expr), full_prec=True).replace("Abs(", "abs(")
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _START, _PACKAGE],
            input=f"{seconds}\n{text}", capture_output=True, text=True, timeout=4 * seconds,
            check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        ).stdout  # fmt: skip
        return to_sympy(parse(answer.strip().replace("Abs(", "abs(")), {})
    except (subprocess.SubprocessError, SpecError, OSError):
        return None


def _limit_processor_time(seconds: float) -> None:
    # time of the processor, not of the clock: a busy machine must not change the answer
    try:
        import resource
    except ImportError:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limit = int(used + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


if __name__ == "__main__":
    _limit_processor_time(float(sys.stdin.readline()))
    request = to_sympy(parse(sys.stdin.read()), {})
    print(sp.sstr(sp.integrate(request, X, meijerg=False)))
