"""Where a run stands: a killed run goes on as if nothing had happened.

A run of one process keeps safetensors and JSON, one of many ranks a torch.distributed.checkpoint
that any number of ranks can read.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from integrand.errors import DataError, Error
from integrand.train.distributed import ALONE, Ranks, whole
from integrand.train.files import read_json, sync

METADATA = ".metadata"  # of torch.distributed.checkpoint


@dataclass(slots=True)
class Progress:
    """Steps done, the hash of the batches they saw, labels left out, and the seconds they took.

    `seconds` counts everything, `train_seconds` the training alone of `timed_steps` steps: all but
    the first of each process.
    """

    step: int = 0
    batches_sha256: str = ""
    left_out: int = 0
    seconds: float = 0.0
    timed_steps: int = 0
    train_seconds: float = 0.0


def save(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    ranks: Ranks = ALONE,
) -> None:
    """Write folder/step-N whole, then drop the older ones.

    Raises:
        Error: the disk is full, say; the older ones are still there.
    """
    from safetensors import SafetensorError

    final, scratch = folder / f"step-{progress.step:08d}", folder / ".making"
    if final.exists():
        return
    try:
        _write(scratch, model, optimizers, progress, ranks)
        if not ranks.first:
            return
        scratch.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        if ranks.first:
            shutil.rmtree(scratch, ignore_errors=True)
        last = _steps(folder)
        raise Error(
            f"{folder} must take the checkpoint of step {progress.step}, got: {error}; make room "
            f"and run again, it goes on from {last[-1].name if last else 'the start'}"
        ) from None
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def _write(
    scratch: Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    ranks: Ranks,
) -> None:
    if ranks.first:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    if ranks.parallel == "none":
        from safetensors.torch import save_file

        save_model(scratch / "model.safetensors", model)
        save_file(_optimizer_tensors(model, optimizers), scratch / "optimizer.safetensors")
    else:
        ranks.wait()
        _save_shards(scratch, model, optimizers)
    if not ranks.first:
        return
    known = asdict(progress)
    if ranks.parallel != "none":
        known["metadata_sha256"] = _sha256(scratch / METADATA)
    (scratch / "progress.json").write_text(json.dumps(known))
    for path in scratch.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync(scratch)


def _save_shards(scratch: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(model, optimizers)
    try:
        checkpoint.save({"model": weights, "optimizers": moments}, checkpoint_id=scratch)
    except checkpoint.CheckpointException as error:
        raise OSError(_reason(error)) from None


def _reason(error: Any) -> str:
    """What a rank met, of a CheckpointException: its text is a traceback."""
    rank, (met, _) = next(iter(error.failures.items()))
    return f"{met} on rank {rank}"


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def restore(
    folder: Path, model: nn.Module, optimizers: Sequence[Optimizer], ranks: Ranks = ALONE
) -> Progress:
    """Load the newest checkpoint into model and optimisers; a fresh Progress if there is none."""
    steps = _steps(folder)
    if not steps:
        return Progress()
    newest = steps[-1]
    known = read_json(newest / "progress.json")
    try:
        sha256 = known.pop("metadata_sha256", None)
        progress = Progress(**known)
    except (AttributeError, TypeError) as error:
        raise DataError(
            f"{newest / 'progress.json'} must say where the run stands, got {error}; delete "
            f"{newest} and run again"
        ) from None
    if ranks.parallel == "none":
        load_model(newest / "model.safetensors", model)
        _load_optimizers(_read(newest / "optimizer.safetensors"), model, optimizers)
    else:
        # torch unpickles it
        if not (newest / METADATA).exists() or _sha256(newest / METADATA) != sha256:
            raise DataError(
                f"{newest / METADATA} must be the file that progress.json has the sha256 of, got "
                f"another or none; delete {newest} and run again"
            )
        _load_shards(newest, model, optimizers)
    return progress


def _load_shards(newest: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, moments = get_state_dict(model, optimizers)
    try:
        checkpoint.load({"model": weights, "optimizers": moments}, checkpoint_id=newest)
    except checkpoint.CheckpointException as error:
        raise DataError(
            f"{newest} must be a checkpoint of torch.distributed.checkpoint, got: "
            f"{_reason(error)}; delete that folder and run again"
        ) from None
    set_state_dict(model, optimizers, model_state_dict=weights, optim_state_dict=moments)


def save_model(path: Path, model: nn.Module, ranks: Ranks = ALONE) -> None:
    """Weights under their own names; a tied tensor once, as transformers does."""
    from safetensors.torch import save_file

    gathered = {name: whole(tensor) for name, tensor in _weights(model).items()}
    if ranks.first:
        save_file({name: tensor.contiguous() for name, tensor in gathered.items()}, path)


def save_weights(path: Path, model: nn.Module, ranks: Ranks = ALONE) -> None:
    """`save_model`, whole or not at all.

    Raises:
        Error: the disk is full, say; the checkpoints are still there.
    """
    from safetensors import SafetensorError

    scratch = path.with_name(f".{path.name}")
    try:
        save_model(scratch, model, ranks)
        if ranks.first:
            scratch.replace(path)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise Error(
            f"{path} must take the trained weights, got: {error}; make room and run again, it goes "
            "on from the last checkpoint"
        ) from None


def load_model(path: Path, model: nn.Module) -> None:
    """Copy the weights of a safetensors file into `model`; names and shapes must agree."""
    found = _read(path)
    wanted = _weights(model)
    if wrong := sorted(wanted.keys() ^ found.keys()):
        raise DataError(
            f"{path} must hold the tensors of this model, got {wrong[0]} on one side only; "
            "build the model from the same config"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            if tensor.shape != found[name].shape:
                raise DataError(
                    f"{name} in {path} must have shape {tuple(tensor.shape)}, "
                    f"got {tuple(found[name].shape)}; build the model from the same config"
                )
            tensor.copy_(found[name])


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} must be a safetensors file, got: {error}; delete its folder and run again"
        ) from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each once."""
    names: dict[Tensor, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(tensor, name)
    return {name: tensor.detach() for tensor, name in names.items()}


def _optimizer_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """What optimisers remember as NAME:KEY, of a parameter or of a group."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    tensors = {
        f"{names[parameter]}:{key}": value.contiguous()
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    # AdEMAMix counts steps by group
    for group in _groups(optimizers):
        if "step" in group:
            tensors[f"{group['name']}:step"] = torch.tensor(group["step"])
    return tensors


def _load_optimizers(
    tensors: dict[str, Tensor], model: nn.Module, optimizers: Sequence[Optimizer]
) -> None:
    parameters = dict(model.named_parameters())
    owners = {p: o for o in optimizers for group in o.param_groups for p in group["params"]}
    groups = {group["name"]: group for group in _groups(optimizers)}
    for key, value in tensors.items():
        name, _, kind = key.rpartition(":")
        if name in groups:
            groups[name][kind] = int(value)
        else:
            owners[parameters[name]].state[parameters[name]][kind] = value
    for optimizer in optimizers:
        # AdamW counts steps on the CPU or beside the parameter; load_state_dict knows which
        optimizer.load_state_dict(optimizer.state_dict())


def _groups(optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
