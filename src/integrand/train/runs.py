"""The folder of a run: what it holds, whose it is, and what else its losses depend on."""

import platform
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from integrand.errors import DataError, Error
from integrand.models.decoder import Decoder
from integrand.models.export import export
from integrand.nn.gated import MakesModule
from integrand.nn.jump import jump
from integrand.spec import Spec, spec_from_mapping, to_toml
from integrand.train import checkpoint
from integrand.train.activations import chosen
from integrand.train.config import TrainConfig
from integrand.train.files import read_json, write_json
from integrand.train.tokenizer import load_tokenizer, separator
from integrand.train.tokens import TokenData

RECORD = "record.json"
METRICS = "metrics.jsonl"
WEIGHTS = "model.safetensors"
CHECKPOINTS = "checkpoints"
IDENTITY = "run.json"
TOKENIZER = "tokenizer.json"
OURS = (RECORD, METRICS, WEIGHTS, CHECKPOINTS)
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
    if path.exists() and resume:
        known, kept = _identity(out_dir)
        known["config"] = kept.to_dict()
        for key, value in identity.items():
            if known.get(key) != value:
                raise DataError(
                    f"{out_dir} holds a run {OTHER[key]}; choose another folder, or remove it"
                )
        return read_json(out_dir / RECORD) if (out_dir / RECORD).exists() else None
    if not path.exists() and (there := [n for n in OURS if (out_dir / n).exists()]):
        # it may be anybody's
        raise DataError(
            f"{out_dir} has {there[0]} but no {IDENTITY} that says whose it is; choose another "
            "folder, or remove it"
        )
    # the identity goes last and comes last: what lies beside one is always of its run
    for name in (RECORD, METRICS, WEIGHTS):
        (out_dir / name).unlink(missing_ok=True)
    if (out_dir / CHECKPOINTS).exists():
        shutil.rmtree(out_dir / CHECKPOINTS)
    path.unlink(missing_ok=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    text = to_toml(spec) if isinstance(spec, Spec) else None
    if (tokens.folder / TOKENIZER).exists():
        shutil.copyfile(tokens.folder / TOKENIZER, out_dir / TOKENIZER)
    write_json(path, {**identity, "activation": text})
    return None


def load_run(folder: Path | str, activation: MakesModule | None = None) -> Decoder:
    """The trained decoder of a finished run, on the CPU, from its folder alone.

    The activation is derived again from the text that run.json keeps, so that a run outlives
    changes of the catalogue, or from a name that says all of it, such as fatrelu(0.01);
    `activation` is that of a run whose own had neither.
    """
    from integrand.activation import derive

    folder = Path(folder)
    known, config = _identity(folder)
    path, text = folder / IDENTITY, known.get("activation")
    activation = activation or jump(config.activation)
    if activation is None:
        if text is None:
            raise DataError(
                f"{path} must have the declaration of its activation, got none; pass the "
                "activation it was trained with: load_run(folder, activation)"
            )
        try:
            activation = derive(spec_from_mapping(tomllib.loads(text)))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the activation in {path} must be TOML text of a spec, got {error}; train again"
            ) from None
    model = Decoder(config.model, chosen(config, activation), config.impl)
    checkpoint.load_model(folder / WEIGHTS, model)
    return model


def _identity(folder: Path) -> tuple[dict[str, Any], TrainConfig]:
    """run.json of a folder, and the config in it."""
    known = read_json(folder / IDENTITY)
    try:
        return known, TrainConfig.from_dict(known["config"])
    except (Error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder / IDENTITY} must describe a run, got {type(error).__name__}: {error}; it is "
            "damaged or of a newer integrand: update, or remove the folder"
        ) from None


def export_run(run: Path | str, out_dir: Path | str) -> Path:
    """A finished run as a folder that transformers loads; see `integrand.models.export`."""
    run = Path(run)
    if not (run / IDENTITY).exists():
        inside = sorted(p.parent.name for p in run.glob(f"*/{IDENTITY}"))
        raise DataError(
            f"{run} must hold a finished run, got no {IDENTITY}; "
            + (f"pass one of its folders: {', '.join(inside)}" if inside else "check the path")
        )
    model = load_run(run)
    context = _identity(run)[1].context
    tokenizer = run / TOKENIZER
    if not tokenizer.exists():  # a run from before it was kept
        return export(model, out_dir, context=context)
    known = load_tokenizer(tokenizer)
    end = known.id_to_token(separator(known))
    return export(model, out_dir, context=context, tokenizer=tokenizer, separator=end)


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
    program = Path(sys.argv[0])
    # python -m integrand
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])
