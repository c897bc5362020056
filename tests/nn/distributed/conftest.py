import json
import multiprocessing
import runpy
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# a server that imports once and then forks: a process costs a fraction of a second
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "integrand.models"]
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
