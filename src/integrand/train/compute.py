"""What a run costs: FLOPs, speed, share of the device's peak, memory."""

import dataclasses
import functools
import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from integrand.models.decoder import Decoder, DecoderConfig
from integrand.train.checkpoint import Progress
from integrand.train.config import TrainConfig

# dense bf16 FLOP/s with fp32 accumulation, from NVIDIA's data sheets (half of the figure given
# "with sparsity"); a GPU takes the first row whose words its name holds
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
}
SLICED = {"MIG"}  # part of a GPU, which keeps the name of the whole


# of Linux: the peak of what is resident, and how to forget it
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@functools.cache
def flops_per_token(config: DecoderConfig, context: int) -> float:
    """Floating-point operations of one training token: forward and backward, no optimiser.

    Counted by torch over one sequence on the meta device: every matrix product at 2 per
    multiply-add, attention as the full (T, T) square although it is causal, as is customary
    (arXiv:2204.02311, appendix B). Elementwise work counts nothing, so that any activation costs
    the same, and so does what backward computes again.
    """
    one, two = (_counted(dataclasses.replace(config, layers=n), context) for n in (1, 2))
    # layers are alike: each further one costs what the second does
    return (one + (config.layers - 1) * (two - one)) / context


def _counted(config: DecoderConfig, context: int) -> int:
    with torch.device("meta"):
        model = Decoder(config, _Any())
        tokens = torch.zeros((1, context), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    return counter.get_total_flops()


class _Any:
    """Stands for every activation where only matrix products are counted."""

    name = "any"

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> nn.Module:
        return nn.SiLU()


def peak_flops(device: torch.device, precision: str = "fp32") -> tuple[float, str]:
    """(FLOP/s, where the number is from): the data sheet's for a known GPU, else measured."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        words = set(re.split(r"[^A-Za-z0-9]+", name))
        for known, peak in PEAKS.items():
            if words.issuperset(known.split()) and not words & SLICED:
                return peak, f"NVIDIA's data sheet, {known}, dense bf16"
    on_gpu = device.type != "cpu"
    dtype = torch.bfloat16 if on_gpu and precision == "bf16" else torch.float32
    return _measured(str(device), dtype, torch.get_num_threads())


@functools.cache
def _measured(device: str, dtype: torch.dtype, threads: int) -> tuple[float, str]:
    """The fastest of several square products; once per process, device and number of threads."""
    side = 1024 if device == "cpu" else 8192
    a = torch.ones(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    where = f"{threads} threads" if device == "cpu" else device
    kind = str(dtype).removeprefix("torch.")
    return 2 * side**3 / min(seconds), f"measured matmul, {kind}, {where}"


def reset_memory(device: torch.device) -> None:
    """Forget earlier peaks, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _CLEAR.write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes since `reset_memory`: the largest allocation on a GPU, else what was resident. Without
    Linux's account of it, of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # not ru_maxrss: that of a child begins with its parent's
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text()):
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cost(
    config: TrainConfig, device: torch.device, progress: Progress, ranks: int = 1
) -> dict[str, Any]:
    """The entries of a run's record about speed and memory.

    `train_s` is the time of `timed_steps` training steps, without evaluation and without the
    first step of each process, which may compile; `mfu` is flops_per_token * tokens_per_s over
    the peak of the `ranks` devices together. Rates are null where no step was timed.
    """
    tokens = progress.timed_steps * config.batch_size * config.context
    per_s = tokens / progress.train_seconds if tokens else None
    per_token = flops_per_token(config.model, config.context)
    peak, source = peak_flops(device, config.precision)
    return {
        "train_s": round(progress.train_seconds, 3),
        "timed_steps": progress.timed_steps,
        "tokens_per_s": per_s and round(per_s, 1),
        "flops_per_token": per_token,
        "peak_flops": peak * ranks,
        "peak_flops_source": source,
        "mfu": per_s and per_s * per_token / (peak * ranks),
        "memory_bytes": peak_memory(device),
    }
