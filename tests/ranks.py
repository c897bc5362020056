"""What one of two processes runs: the checks of a test file, each with the same device mesh."""

import datetime
import json
import runpy
import traceback
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh


def outcomes(file: str, checks: list[str]) -> dict[str, str]:
    """Per check the traceback, empty where it passed."""
    found = {}
    functions = runpy.run_path(file)
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ranks",))
    for check in checks:
        torch.manual_seed(0)
        try:
            functions[check](mesh)
            found[check] = ""
        except Exception:
            found[check] = traceback.format_exc()
    return found


def main(rank: int, folder: str, file: str, checks: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    Path(folder, f"{rank}.json").write_text(json.dumps(outcomes(file, checks)))
    distributed.destroy_process_group()


if __name__ == "__rank__":
    main(**globals()["ARGUMENTS"])
