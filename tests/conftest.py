import functools
import json
import logging
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# a cache of this run's own: nothing that an earlier version derived or compiled may pass a test
os.environ.setdefault("INTEGRAND_CACHE", tempfile.mkdtemp(prefix="integrand-tests-"))
# Triton's kernels run on CPU tensors here; it reads this when it is imported
os.environ.setdefault("TRITON_INTERPRET", "1")
logging.getLogger("torch").setLevel(logging.ERROR)


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


# unwritten memory must not pass for zeros: everywhere, in autograd's threads too
for _name in ("empty", "empty_like", "empty_strided"):
    setattr(torch, _name, _poisoned(getattr(torch, _name)))
for _name in ("new_empty", "new_empty_strided"):
    setattr(torch.Tensor, _name, _poisoned(getattr(torch.Tensor, _name)))

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
                process.join(120)
                process.kill()
            found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]
        return {check: [f[check] for f in found if f[check]] for check in checks}

    return run
