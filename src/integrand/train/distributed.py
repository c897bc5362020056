"""The ranks of one run: what each of them computes and writes, and what they agree on."""

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from integrand.errors import Error
from integrand.models.decoder import Decoder
from integrand.nn.fsdp import shard
from integrand.nn.shards import distributed, need_distributed
from integrand.train.config import TrainConfig

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `count` that train one model; alone by default.

    Every rank knows the whole batch of a step, computes its own rows, and calls each method here
    as often as the others do.
    """

    own: int = 0
    count: int = 1
    parallel: Literal["none", "ddp", "fsdp"] = "none"

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks to the terminal."""
        return self.own == 0

    def part(self, batch: Tensor) -> Tensor:
        """This rank's rows of (B, ...)."""
        return batch.chunk(self.count)[self.own]

    def sums(self, values: Sequence[float], device: torch.device) -> Sequence[float]:
        """The sum of each number over the ranks, in fp64."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the ranks."""
        if self.count > 1:
            torch.distributed.all_reduce(value)
            value /= self.count
        return value

    def any(self, asked: bool, device: torch.device) -> bool:
        """Whether any rank was asked: the others may not have heard yet."""
        return bool(self.sums([asked], device)[0])

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def after_first(self, function: Callable[[], Result]) -> Result:
        """function() on every rank, on the first before the others, which fail where it fails."""
        box: list[Error | None] = [None]
        try:
            if self.first:
                return function()
        except BaseException as error:
            # any other may not survive the way
            told = f"the first rank stopped with {type(error).__name__}: {error}; see what it said"
            box = [error if isinstance(error, Error) else Error(told)]
            raise
        finally:
            if self.count > 1:
                torch.distributed.broadcast_object_list(box)
        if box[0] is not None:
            raise box[0]
        return function()


ALONE = Ranks()


def check_ranks(config: TrainConfig) -> None:
    """Whether the processes that are there can make this run.

    Raises:
        Error: no torchrun and no process group, ranks that nothing would make one run of, or a
            batch that they cannot share evenly.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if config.parallel == "none":
        if count > 1:
            raise Error(
                f"one process makes a run with parallel='none', got {count} (WORLD_SIZE), each of "
                "which would make it for itself; pass --parallel ddp or fsdp"
            )
        return
    need_distributed()
    if torch.distributed.is_initialized():
        count = torch.distributed.get_world_size()
    elif "RANK" not in os.environ:
        raise Error(
            f"parallel='{config.parallel}' needs a process for each rank, got one without any; "
            "start it with torchrun --nproc-per-node N -m integrand ..."
        )
    if config.batch_size % (config.accumulate * count):
        raise Error(
            f"batch_size must be a multiple of accumulate times ranks, got {config.batch_size} for "
            f"{config.accumulate} x {count}; change one of them"
        )


def join(config: TrainConfig) -> tuple[Ranks, torch.device]:
    """The ranks of this run, which `check_ranks` allows, and the device of this one.

    `torchrun` describes the ranks; a process group that is there already is taken as it is.
    """
    check_ranks(config)
    device = torch.device(config.device) if config.device != "auto" else _accelerator()
    if config.parallel == "none":
        return ALONE, device
    if device.type != "cpu" and device.index is None:
        local = os.environ.get("LOCAL_RANK")
        index = torch.accelerator.current_device_index() if local is None else int(local)
        device = torch.device(device.type, index)
        torch.accelerator.set_device_index(index)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            torch.distributed.get_default_backend_for_device(device)
        )
        atexit.register(torch.distributed.destroy_process_group)
    own, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return Ranks(own, count, config.parallel), device


def spread(model: Decoder, config: TrainConfig, device: torch.device) -> nn.Module:
    """What a training step calls in place of `model`; under FSDP2 `model` itself, now sharded.

    Under FSDP2 with bf16 the ranks gather and compute in bf16 and sum gradients in fp32; weights,
    activation parameters and the optimiser stay fp32.
    """
    if config.parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    if config.parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy

        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        return shard(model, mesh, mp_policy=half if config.precision == "bf16" else None)
    return model


def summing(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Around one micro-batch of a step: DDP sums gradients over the ranks in the last one alone.

    FSDP2 sums them in each, so that no rank ever holds the gradient of the whole model.
    """
    alone = getattr(model, "no_sync", None)
    return nullcontext() if last or alone is None else alone()


def whole(tensor: Tensor) -> Tensor:
    """The tensor that the ranks hold parts of; a collective where they do."""
    return tensor.full_tensor() if distributed(tensor) else tensor


def _accelerator() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
