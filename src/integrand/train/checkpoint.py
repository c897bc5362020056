"""Where a run stands, as safetensors and JSON: a killed run goes on as if nothing had happened."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from integrand.errors import DataError
from integrand.train.files import read_json


@dataclass(slots=True)
class Progress:
    """Steps done, the hash of the batches they saw, and the seconds they took.

    `seconds` counts everything, `train_seconds` the training alone of `timed_steps` steps: all but
    the first of each process.
    """

    step: int = 0
    batches_sha256: str = ""
    seconds: float = 0.0
    timed_steps: int = 0
    train_seconds: float = 0.0


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write folder/step-N whole, then drop the older ones."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{progress.step:08d}"
    if final.exists():
        return
    scratch = folder / f".making-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    save_model(scratch / "model.safetensors", model)
    save_file(_optimizer_tensors(model, optimizer), scratch / "optimizer.safetensors")
    (scratch / "progress.json").write_text(json.dumps(asdict(progress)))
    for path in scratch.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    scratch.rename(final)
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the newest checkpoint into model and optimiser; a fresh Progress where there is none."""
    steps = sorted(folder.glob("step-*")) if folder.is_dir() else []
    if not steps:
        return Progress()
    newest = steps[-1]
    load_model(newest / "model.safetensors", model)
    tensors = _read(newest / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        moments = {
            key.removeprefix(f"{name}:"): value
            for key, value in tensors.items()
            if key.startswith(f"{name}:")
        }
        if moments:
            # AdamW counts steps on the CPU or beside the parameter; load_state_dict knows which
            optimizer.state[parameter] = moments
    optimizer.load_state_dict(optimizer.state_dict())
    return Progress(**read_json(newest / "progress.json"))


def save_model(path: Path, model: nn.Module) -> None:
    """Weights under their own names; a tied tensor once, as transformers does."""
    from safetensors.torch import save_file

    save_file(_weights(model), path)


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


def _weights(model: nn.Module) -> dict[str, Tensor]:
    seen: dict[int, str] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen[tensor.data_ptr()] = name
        weights[name] = tensor.contiguous()
    return weights


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}:{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
