"""The folder of a run: what it holds, whose it is, and what else its losses depend on."""

import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from integrand.errors import DataError
from integrand.nn.gated import MakesModule
from integrand.spec import Spec, to_toml
from integrand.train.config import TrainConfig
from integrand.train.files import read_json, write_json
from integrand.train.tokens import TokenData

RECORD = "record.json"
METRICS = "metrics.jsonl"
WEIGHTS = "model.safetensors"
CHECKPOINTS = "checkpoints"
IDENTITY = "run.json"
OTHER = {
    "config": "with another config",
    "data_sha256": "on other data",
    "activation_sha256": "of another activation",
}


def open_run(
    config: TrainConfig, activation: MakesModule, tokens: TokenData, out_dir: Path, resume: bool
) -> dict[str, Any] | None:
    """Make out_dir ready for this run; the record if it holds the finished one already."""
    if tokens.vocab_size > config.model.vocab_size:
        raise DataError(
            f"the model embeds {config.model.vocab_size} tokens, the data has {tokens.vocab_size}; "
            "make vocab_size of the model at least that"
        )
    spec = getattr(activation, "spec", None)
    identity = {
        "config": config.to_dict(),
        "data_sha256": tokens.sha256,
        "activation_sha256": spec.sha256 if isinstance(spec, Spec) else None,
    }
    path = out_dir / IDENTITY
    if path.exists() and not resume:
        for name in (IDENTITY, RECORD, METRICS, WEIGHTS):
            (out_dir / name).unlink(missing_ok=True)
        shutil.rmtree(out_dir / CHECKPOINTS, ignore_errors=True)
    if path.exists():
        known = read_json(path)
        for key, value in identity.items():
            if known.get(key) != value:
                raise DataError(
                    f"{out_dir} holds a run {OTHER[key]}; choose another folder, or start it anew "
                    "with resume=False"
                )
        return read_json(out_dir / RECORD) if (out_dir / RECORD).exists() else None
    out_dir.mkdir(parents=True, exist_ok=True)
    text = to_toml(spec) if isinstance(spec, Spec) else None
    write_json(path, {**identity, "activation": text})
    return None


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and threads: losses are bitwise equal only where these are."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def command() -> str:
    """The command line of this process, its program without a path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
