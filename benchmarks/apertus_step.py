"""A training step of a small Apertus from transformers, before and after `ig.swap(model, "xielu")`.

    python benchmarks/apertus_step.py [--rounds N] [--json PATH]

Eager, in bf16 and fp32, on a GPU where there is one: forward, backward and AdamW, both models
alternating in one run. Memory: what autograd keeps for the backward pass, and the peak that steps
add to model and optimiser, of the whole process on a CPU and of torch's allocator on a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import integrand as ig
from integrand.report.machine import environment
from integrand.timing import paired, ratio
from integrand.train.files import write_json
from integrand.train.runs import command

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
STATES = ("before", "after")
MIB = 2**20


def model_of(dtype: str, state: str, small: bool) -> Any:
    """An Apertus with its widths in the proportions of the 8B one."""
    from transformers import ApertusConfig, AutoModelForCausalLM

    width, layers = (64, 2) if small else (256, 3)
    config = ApertusConfig(
        vocab_size=1024,
        hidden_size=width,
        intermediate_size=width * 21 // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        dtype=DTYPES[dtype],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(DEVICE).train()
    if state == "after":
        ig.swap(model, "xielu")
    return model


def batch_of(given: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1024, (given.batch, given.context), generator=generator).to(DEVICE)


def step_of(model: Any, batch: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model(batch, labels=batch, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def kept_mib(model: Any, batch: Tensor) -> float:
    """What autograd keeps of one forward pass beside the parameters, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)  # alive, so that no address is counted for two storages
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(batch, labels=batch, use_cache=False)
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in held)}
    return sum(size for address, size in storages.items() if address not in own) / MIB


def peak_mib(step: Callable[[], None]) -> float:
    """What a step adds at its peak to model and optimiser."""
    step()  # kernels are loaded and the optimiser's state is there from here on
    if DEVICE == "cuda":
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - start) / MIB
    # the kernel forgets the peak of before
    Path("/proc/self/clear_refs").write_text("5")
    start = _resident("VmRSS")
    step()
    return (_resident("VmHWM") - start) / 1024


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith(name)))


def memory(dtype: str, state: str, given: argparse.Namespace) -> dict[str, float]:
    """Measured in a process of its own, whose allocator gives back at once what is freed."""
    options = ["--batch", str(given.batch), "--context", str(given.context)]
    options += ["--small"] * given.small
    run = [sys.executable, __file__, "--memory", dtype, state, *options]
    returning = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, env=returning)
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(dtype: str, state: str, given: argparse.Namespace) -> None:
    model, batch = model_of(dtype, state, given.small), batch_of(given)
    found = {"peak_mib": peak_mib(step_of(model, batch)), "kept_mib": kept_mib(model, batch)}
    print(json.dumps(found))


def rows_of(dtype: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    batch = batch_of(given)
    models = {state: model_of(dtype, state, given.small) for state in STATES}
    steps = {state: step_of(model, batch) for state, model in models.items()}
    seconds = paired(
        steps,
        given.rounds,
        2,
        synchronize=torch.cuda.synchronize if DEVICE == "cuda" else None,
        progress=lambda done, all: print(f"{dtype}: round {done} of {all}", file=sys.stderr),
    )
    rows = []
    for state, model in models.items():
        middle, low, high = ratio(seconds[state], seconds["before"])
        rows.append(
            {
                "state": state,
                "activation": type(model.model.layers[0].mlp.act_fn).__name__,
                "dtype": dtype,
                "parameters": sum(p.numel() for p in model.parameters()),
                "median_s": statistics.median(seconds[state]),
                "ratio_before": middle,
                "spread_before": [low, high],
                **memory(dtype, state, given),
            }
        )
        shown = "{dtype} {state:<6} {median_s:.3f} s, {ratio_before:.2f} of before;"
        shown += " kept {kept_mib:.1f} MiB, peak {peak_mib:.1f} MiB"
        print(shown.format(**rows[-1]))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--small", action="store_true", help="a model to try the script with")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if given.memory:
        measure_memory(*given.memory, given)
        return 0
    rows = [row for dtype in DTYPES for row in rows_of(dtype, given)]
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "kind": "apertus_step",
            "command": command(),
            "environment": environment(),
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
            "rounds": given.rounds,
            "tokens": given.batch * given.context,
            "rows": rows,
        }
        write_json(given.json, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
