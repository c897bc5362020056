import functools
import inspect
import json
import logging
import math
import multiprocessing
import os
import random
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

# the workers of xdist fill the cores already: threads, and processes for inductor's Triton kernels
# that no CPU needs, would only be in the way; torch reads both when it is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pytest
import torch
import torch.utils._device

# a cache of this run's own: nothing that an earlier version derived or compiled may pass a test
os.environ.setdefault("INTEGRAND_CACHE", tempfile.mkdtemp(prefix="integrand-tests-"))
# Triton's kernels run on CPU tensors here; it reads this when it is imported
os.environ.setdefault("TRITON_INTERPRET", "1")
logging.getLogger("torch").setLevel(logging.ERROR)

# long tests, and files whose tests share one long fixture: they begin, so that what the workers
# divide among themselves at the end is short
LONG = (
    "test_demo.py", "test_runs.py", "test_fsdp.py", "test_tensor_parallel.py", "test_ddp.py",
    "test_work.py", "test_triton_gemm.py", "test_derived.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


def _find_builtins_once() -> None:
    """Triton's interpreter looks through its whole language in every call of a function within a
    kernel, for builtins still to be replaced; what to look at is found once."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    is_builtin = interpreter.tl.core.is_builtin

    @functools.cache
    def names(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    def patch(package: Any, *rest: Any) -> None:
        for name in names(package):
            if is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, *rest)

    interpreter._patch_builtin = patch


_find_builtins_once()


def _poisoned(original: Callable[..., Any]) -> Callable[..., Any]:
    """`original` whose result is NaN, or the largest integer, where integrand asked for it."""

    @functools.wraps(original)
    def empty(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        # dynamo cannot trace the look at the caller
        if torch.compiler.is_compiling():
            return result
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == "integrand" and result.dtype is not torch.bool:
            whole = not (result.is_floating_point() or result.is_complex())
            with torch.no_grad():
                result.fill_(torch.iinfo(result.dtype).max if whole else torch.nan)
        return result

    return empty


# `with torch.device(...)` keeps a list of torch's constructors: made now, it holds the originals
torch.utils._device._device_constructors()
# unwritten memory must not pass for zeros: everywhere, in autograd's threads too
for _name in ("empty", "empty_like", "empty_strided"):
    setattr(torch, _name, _poisoned(getattr(torch, _name)))
for _name in ("new_empty", "new_empty_strided"):
    setattr(torch.Tensor, _name, _poisoned(getattr(torch.Tensor, _name)))


@pytest.fixture(scope="session")
def planted_study() -> Callable[..., Path]:
    """Writes the folder of a study whose truth is known: a power law, a seed's own level, noise.

    `effects` are the variants' differences in nats from the first; ReLU2 takes 0.9 of SwiGLU's
    time. The layers of xIELU have values that fall with depth.
    """
    return _planted


OUTLIERS = ("kurtosis", "max", "max_over_rms", "fp8_error", "mxfp8_error")


def _planted(
    folder: Path,
    effects: Mapping[str, float] = MappingProxyType({"SwiGLU": 0.0, "ReLU2": 0.0, "xIELU": -0.05}),
    rungs: int = 4,
    seeds: int = 5,
    noise: float = 0.01,
    draw_seed: int = 0,
) -> Path:
    draw = random.Random(draw_seed)
    names = [f"{0.2 * 4**i:.1f}M" for i in range(rungs)]
    levels = [draw.gauss(0, 0.03) for _ in range(seeds)]
    ratios = {"SwiGLU": 1.0, "ReLU2": 0.9, "xIELU": 1.1}
    activations = {"SwiGLU": "silu", "ReLU2": "relu2", "xIELU": "xielu"}
    plan = {
        "name": "planted",
        "rungs": [{"name": n} for n in names],
        "variants": [{"name": v, "activation": activations[v]} for v in effects],
        "seeds": list(range(seeds)),
        "resolve": 0.03,
        "planned": {"tune": 6 * len(effects) * rungs, "short": seeds * len(effects) * rungs},
        "command": "integrand study planted",
    }
    for part in ("records", "timing"):
        (folder / part).mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(plan))
    for place, name in enumerate(names):
        times = {
            v: {"step_s": 0.1 * ratios[v], "ratio": ratios[v], "ratio_ci": [ratios[v]] * 2}
            for v in effects
        }
        (folder / "timing" / f"{name}.json").write_text(json.dumps({"variants": times}))
        parameters = 200_000 * 4**place
        for variant, effect in effects.items():
            runs = [("main", 1.0, s, 3e-3) for s in range(seeds)]
            runs += [("short", 0.5, s, 3e-3) for s in range(seeds)]
            runs += [("tune", 0.25, 100 + s, lr) for s in range(2) for lr in (1e-3, 3e-3, 9e-3)]
            for arm, share, seed, lr in runs:
                tokens = int(20 * parameters * share)
                level = levels[seed] if seed < seeds else 0.0
                loss = 2 + 3 * (6.0 * parameters * tokens / 1e13) ** -0.1 + level + effect
                loss += draw.gauss(0, noise / math.sqrt(2)) + (0.1 if lr != 3e-3 else 0.0)
                learned = {"alpha_p": [0.9 - 0.2 * i + draw.gauss(0, 0.02) for i in range(4)]}
                learned["alpha_n"] = [0.8] * 4
                values = learned if variant == "xIELU" else {}
                record = {
                    "rung": name, "variant": variant, "arm": arm, "lr": lr, "seed": seed,
                    "parameters": parameters, "flops_per_token": 6.0 * parameters, "steps": 100,
                    "tokens": tokens, "loss": loss, "bits_per_byte": loss / 2, "diverged": None,
                    "held_out": [[0, 7.0, 3.5], [50, loss + 1, 2.0], [100, loss, loss / 2]],
                    "activation_history": [[0, {k: [0.8] * 4 for k in values}], [100, values]],
                    "activation_values": values,
                    "outliers": {k: [3.0, 4.0] for k in OUTLIERS}, "wall_s": 10.0 * ratios[variant],
                    "tokens_per_s": 1e4, "mfu": None, "memory_bytes": 1 << 30,
                    "batches_sha256": f"{name}-{arm}-{seed}", "data_sha256": "d" * 64,
                    "config": {"activation": activations[variant]},
                    "environment": {"python": "3.11", "torch": "2.13", "device": "cpu"},
                }  # fmt: skip
                path = folder / "records" / f"{name}-{variant}-{arm}-{seed}-{lr}.json"
                path.write_text(json.dumps(record))
    return folder


# a server that imports once and then forks: a process costs a fraction of a second
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "integrand.train"]
)


@pytest.fixture(scope="session")
def two_ranks() -> Callable[[str, list[str]], dict[str, list[str]]]:
    """Runs the named functions of a file in two gloo processes: their tracebacks by name."""

    def run(file: str, checks: list[str]) -> dict[str, list[str]]:
        with tempfile.TemporaryDirectory() as folder:
            arguments = {"folder": folder, "file": file, "checks": checks}
            script = str(Path(__file__).with_name("ranks.py"))
            processes = [
                _PROCESSES.Process(
                    target=runpy.run_path,
                    args=(script, {"ARGUMENTS": {"rank": rank, **arguments}}, "__rank__"),
                )
                for rank in range(2)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join(300)
                process.kill()
            found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]
        return {check: [f[check] for f in found if f[check]] for check in checks}

    return run
