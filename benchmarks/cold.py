"""What a new activation costs before its first call, and twenty processes that all want it at once.

    python benchmarks/cold.py --json results/bench/cold/summary.json

In a cache of its own: seconds to derive, to compile C, to generate Triton source, and to load what
the cache has. Then processes that start together on an empty cache: all must give the same values,
and the compiler may run once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("xielu", "silu", "integral_silu", "gelu_tanh", "apa", "xiprelup")
LIMITS = {"compile_s": 1.5, "triton_s": 0.5, "load_s": 0.03}
ONE = """
import sys, torch, integrand as ig
x = torch.linspace(-5, 5, 4096)
y = ig.activation(sys.argv[1])(x, impl="c")
print(y.double().sum().item().hex())
"""


def measured(names: list[str]) -> list[dict[str, Any]]:
    import torch

    import integrand as ig
    from integrand.kernels import c

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    c.compiler()
    rows = []
    for name in names:
        derive = seconds(lambda name=name: ig.activation(name))
        act = ig.activation(name)
        for dtype in (torch.float32, torch.bfloat16):
            load = [seconds(lambda act=act, dtype=dtype: c.load(act.program, dtype)) for _ in "123"]
            triton = seconds(lambda act=act, dtype=dtype: act.source("triton", dtype))
            rows.append({
                "name": name, "dtype": str(dtype).removeprefix("torch."), "wide": act.program.wide,
                "derive_s": derive, "compile_s": load[0], "load_s": min(load[1:]),
                "triton_s": triton,
            })  # fmt: skip
    return rows


def crowd(name: str, count: int) -> dict[str, Any]:
    """`count` interpreters on an empty cache, with a compiler that counts its calls."""
    with tempfile.TemporaryDirectory() as place:
        compiler = shutil.which(os.environ.get("CC", "cc")) or "gcc"
        calls, wrapper = Path(place) / "calls", Path(place) / "counting-cc"
        wrapper.write_text(
            f'#!/bin/sh\ncase "$*" in *kernel.c*) echo >> "{calls}";; esac\nexec {compiler} "$@"\n'
        )
        wrapper.chmod(0o755)
        cache = {"INTEGRAND_CACHE": f"{place}/cache", "CC": str(wrapper)}
        start = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-c", ONE, name], stdout=subprocess.PIPE, text=True,
                env={**os.environ, **cache},
            )
            for _ in range(count)
        ]  # fmt: skip
        answers = {process.communicate()[0].strip() for process in running}
        failed = sum(process.returncode != 0 for process in running)
        compiles = len(calls.read_text().splitlines()) if calls.exists() else 0
        seconds = time.perf_counter() - start
    return {
        "name": name, "processes": count, "failed": failed, "answers": len(answers),
        "compiles": compiles, "wall_s": seconds,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["INTEGRAND_CACHE"] = place
        rows = measured(list(given.names))
    at_once = crowd(given.names[0], given.processes)
    held = {key: all(r[key] <= limit for r in rows) for key, limit in LIMITS.items()}
    held["processes"] = (at_once["failed"], at_once["answers"], at_once["compiles"]) == (0, 1, 1)
    for r in rows:
        wide = " (computed in fp64)" if r["wide"] else ""
        print(
            f"{r['name']:<16}{r['dtype']:<10}derived in {r['derive_s']:.2f} s, C compiled in"
            f" {r['compile_s']:.2f} s, loaded in {r['load_s'] * 1e3:.0f} ms, Triton source in"
            f" {r['triton_s']:.3f} s{wide}"
        )
    print(
        "{processes} processes: {failed} failed, {compiles} compiles, {wall_s:.0f} s".format(
            **at_once
        )
    )
    for key, holds in held.items():
        print(f"{'holds' if holds else 'does not hold'}: {key} {LIMITS.get(key, '')}".rstrip())
    if given.json:
        from integrand.report.machine import environment
        from integrand.train.files import write_json
        from integrand.train.runs import command

        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {
            "kind": "cold", "command": command(), "environment": environment(), "rows": rows,
            "processes": at_once, "limits": LIMITS, "held": held,
        })  # fmt: skip
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
