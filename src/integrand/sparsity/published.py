"""Published sparse checkpoints with the feed-forward block they were trained with.

Their configs do not say it: SparseLLM/relu-* and relu2-* (arXiv:2402.03804) are plain blocks that
call themselves a Llama with hidden_act relu, and stock Llama code invents an up projection for
them; SakanaAI/SparseLM* (arXiv:2603.23198) say silu and are ReLU. Here the block follows from the
config, the names of the tensors and, for relu against relu2, the name of the repository.

| what | known by | block |
|---|---|---|
| SparseLLM/{relu,relu2}-* | llama without up_proj | plain, by the repository's name |
| SparseLLM/{reglu,swiglu}-*, ReluLLaMA | llama | gated, hidden_act |
| SparseLLM/prosparse-llama-2-* | sparsellama | gated, FATReLU(hidden_act_param) |
| SakanaAI/SparseLM* | llama_sparse_relu | ReLU, sparsity_gated_mlp |
| PowerInfer/Bamboo-* | bamboo | dReLU |

The plain block's one projection is called gate_proj (its authors' answer in the discussions of
SparseLLM/relu-5B) or up_proj. Checked on checkpoints of these shapes, not on the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from integrand.activation import activation
from integrand.errors import DataError
from integrand.models.checkpoints.places import Folder
from integrand.models.checkpoints.ranges import INDEX, SINGLE, read_json, tensor_map
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.nn.gated import MakesModule
from integrand.nn.jump import FATReLU

OURS = ("bamboo", "llama_sparse_relu", "sparsellama")
# transformers' names of the activations these checkpoints have
ACTIVATIONS = {"relu": "relu", "relu2": "relu2", "silu": "silu", "gelu": "gelu"}
# what would change the function and is not built here, with the values that change nothing
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "rope_scaling": (None,),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "scale_emb": (None, 1),
    "scale_depth": (None,),
    "rope_interleaved": (None, False),
    "sparsity_baseline_run": (None, False),
    "partial_rotary_factor": (None, 1),
}
# SparseLM's kernels keep matrices the other way round under these names
RELAID = {"gate_weight": "gate_proj.weight", "down_weight": "down_proj.weight"}
BOOKKEEPING = ("tracker.", "metrics_accumulator.")
ROTARY = "rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a checkpoint's feed-forward blocks compute."""

    gated: bool
    activate_up: bool
    activation: MakesModule


def is_published(folder: Path) -> bool:
    """Whether stock transformers code would build the wrong block for this checkpoint, or none."""
    config = read_json(Folder(folder), "config.json") or {}
    if config.get("model_type") in OURS:
        return True
    if not any((folder / name).exists() for name in (SINGLE, INDEX)):
        return False  # pickled weights are transformers' to load
    return config.get("model_type") == "llama" and not _gated(tensor_map(Folder(folder)))


def blocks_of(
    config: Mapping[str, Any], names: Mapping[str, Any], title: str, act: str | None = None
) -> Blocks:
    """The blocks of a checkpoint from its config and the names of its tensors.

    Args:
        title: the repository's name, such as relu2-100B: it alone tells relu2 from relu.
        act: the activation's catalogue name, where nothing else tells.

    Raises:
        DataError: they cannot be told.
    """
    kind, gated = config.get("model_type"), _gated(names)
    if kind == "bamboo":
        return Blocks(True, True, activation("relu"))
    if kind == "llama_sparse_relu":
        said = bool(config.get("sparsity_gated_mlp", True))
        if said != gated:
            raise DataError(
                f"{title} must have a gate_proj if and only if sparsity_gated_mlp is true, got "
                f"{said} and {'one' if gated else 'none'}; its config is of another checkpoint"
            )
        return Blocks(gated, False, activation("relu"))
    if kind == "sparsellama":
        level = config.get("hidden_act_param") or 0
        if isinstance(level, bool) or not isinstance(level, int | float):
            raise DataError(
                f"hidden_act_param of {title} must be a number, got {level!r}; fetch its "
                "config.json again"
            )
        if config.get("hidden_act") != "fatrelu" or not gated:
            raise DataError(
                f"{title} must be gated by fatrelu, as ProSparse's checkpoints are, got "
                f"hidden_act {config.get('hidden_act')!r}; load it with its own code"
            )
        return Blocks(True, False, FATReLU(level) if level else activation("relu"))
    if kind != "llama":
        raise DataError(
            f"{title} must be of type llama, {', '.join(OURS)}, got {kind!r}; load it with "
            "transformers and pass the model to analyze()"
        )
    if gated:
        said = act or str(config.get("hidden_act"))
        if said not in ACTIVATIONS:
            raise DataError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, got {said!r}")
        return Blocks(True, False, activation(ACTIVATIONS[said]))
    words = title.rsplit("/", 1)[-1].lower().replace("_", "-").split("-")
    known = [w for w in words if w in ("relu", "relu2")]
    if act is None and len(known) != 1:
        raise DataError(
            f"{title} has plain blocks, and its config says relu for ReLU and ReLU² alike: its "
            "folder's name must hold relu or relu2, as in relu2-100B; or pass act='relu2'"
        )
    return Blocks(False, False, activation(act or known[0]))


def load_published(folder: Path | str, title: str | None = None, act: str | None = None) -> Decoder:
    """A published checkpoint as a decoder, in fp32, from a local folder.

    Args:
        title: its name where the folder's own is another, as in the hub's cache.
        act: the activation, where config, tensors and name do not tell.

    Raises:
        DataError: a block that cannot be told, a feature that is not built here, tensors that lack
            or are left over.
    """
    folder = Path(folder)
    title = title or folder.resolve().name
    config = read_json(Folder(folder), "config.json")
    if config is None:
        raise DataError(f"{folder} must hold a config.json, got none; pass a checkpoint's folder")
    for field, neutral in NEUTRAL.items():
        if config.get(field) not in neutral:
            raise DataError(
                f"{title} has {field}={config[field]!r}, which this loader does not build; load it "
                "with its own code and pass the model to analyze()"
            )
    tensors = _tensors(folder)
    blocks = blocks_of(config, tensors, title, act)
    if not blocks.gated:
        tensors = {k.replace("gate_proj.", "up_proj."): v for k, v in tensors.items()}
    try:
        model = Decoder(_shape(config, blocks), blocks.activation)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise DataError(
            f"the config.json of {title} must hold the sizes of a Llama, got "
            f"{type(error).__name__}: {error}; fetch it again"
        ) from None
    wanted = model.state_dict()
    if left := sorted(tensors.keys() - wanted.keys()):
        raise DataError(
            f"{title} holds {len(left)} tensors that no part of this model has, such as "
            f"'{left[0]}'; what they do is not in its config: load it with its own code and "
            "pass the model to analyze()"
        )
    tied = {"lm_head.weight"} if model.config.tied else set()
    if missing := wanted.keys() - tensors.keys() - tied:
        raise DataError(f"{title} lacks '{min(missing)}'; fetch the whole checkpoint")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if wanted[name].shape != tensor.shape:
                raise DataError(
                    f"'{name}' in {title} must have shape {tuple(wanted[name].shape)} by its "
                    f"config, got {tuple(tensor.shape)}; one of the two is of another checkpoint"
                )
            wanted[name].copy_(tensor)
    return model


def _shape(config: Mapping[str, Any], blocks: Blocks) -> DecoderConfig:
    heads = config["num_attention_heads"]
    return DecoderConfig(
        vocab_size=config["vocab_size"],
        d_model=config["hidden_size"],
        d_hidden=config.get("sparsity_new_intermediate_size") or config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        gated=blocks.gated,
        activate_up=blocks.activate_up,
        tied=bool(config.get("tie_word_embeddings", False)),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=config.get("rope_theta", 10_000.0),
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the safetensors files, under the names of transformers' Llama."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(
            f"{folder} must hold safetensors files, got none; fetch them, or convert its "
            "pytorch_model.bin"
        )
    found: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in load_file(file).items():
            if name.endswith(ROTARY) or any(f".{b}" in f".{name}" for b in BOOKKEEPING):
                continue
            short = name.rpartition(".")[2]
            found[name.removesuffix(short) + RELAID.get(short, short)] = (
                tensor.t() if short in RELAID else tensor
            )
    # up_weight of a gated block is as Linear has it, that of a plain one the other way round
    for name in [n for n in found if n.endswith("up_weight")]:
        block, tensor = name.removesuffix("up_weight"), found.pop(name)
        gated = f"{block}gate_proj.weight" in found
        found[f"{block}up_proj.weight"] = tensor if gated else tensor.t()
    return found


def _gated(names: Mapping[str, Any]) -> bool:
    """Whether blocks have two projections to the hidden width."""
    first = {n.partition(".mlp.")[2].partition("_")[0] for n in names if ".layers.0.mlp." in n}
    return {"gate", "up"} <= first
