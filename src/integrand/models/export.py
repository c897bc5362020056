"""A trained decoder as a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from integrand.activation import activation
from integrand.errors import Error
from integrand.models.decoder import NORM_NAMES, Decoder, DecoderConfig
from integrand.models.registered import config_fields
from integrand.nn.groups import activation_modules
from integrand.spec import Spec

# (gated, qk_norm): model_type, class, and the layout whose norm names it has
ARCHITECTURES = {
    (True, False): ("llama", "LlamaForCausalLM", "llama"),
    (False, False): ("arcee", "ArceeForCausalLM", "llama"),
    (True, True): ("qwen3", "Qwen3ForCausalLM", "llama"),
    (False, True): ("apertus", "ApertusForCausalLM", "apertus"),
}
# catalogue names that transformers has under a name of its own; anything else loads where
# integrand is imported, by the declaration in config.json
NATIVE = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "tanh": "tanh",
}


def export(
    model: Decoder,
    out_dir: Path | str,
    *,
    context: int,
    tokenizer: Path | None = None,
    separator: str | None = None,
) -> Path:
    """Write model.safetensors and config.json, and the tokeniser's files where one is given.

        model = AutoModelForCausalLM.from_pretrained(folder)

    Block and qk_norm decide the architecture (`ARCHITECTURES`); norms take its names, everything
    else keeps names and types. An activation that transformers lacks is named `integrand/NAME` and
    carries its declaration: such a folder loads where integrand is imported.

    Args:
        context: the longest sequence, max_position_embeddings.
        tokenizer: a tokenizer.json.
        separator: the text of its token between documents: bos and eos.

    Raises:
        Error: activations of which transformers could hold no value or no declaration.
    """
    from safetensors.torch import save_file

    if model.config.activate_up:
        raise Error(
            "transformers has no feed-forward block with an activation on both projections; use "
            "the run itself (integrand.train.load_run)"
        )
    spec = _spec(model)
    model_type, architecture, layout = ARCHITECTURES[model.config.gated, model.config.qk_norm]
    config: dict[str, Any] = {"architectures": [architecture], "model_type": model_type}
    config |= {**_shape(model.config), **_act(spec, model_type)}
    config["max_position_embeddings"] = context
    config["dtype"] = str(model.model.norm.weight.dtype).removeprefix("torch.")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        end = _write_tokenizer(tokenizer, out_dir, context, separator)
        config |= {"bos_token_id": end, "eos_token_id": end}
    norms = dict(zip(NORM_NAMES[model.config.layout], NORM_NAMES[layout], strict=True))
    weights = {
        ".".join(norms.get(part, part) for part in name.split(".")): tensor.contiguous()
        for name, tensor in model.state_dict().items()
    }
    if model.config.tied:
        del weights["lm_head.weight"]
    save_file(weights, out_dir / "model.safetensors", metadata={"format": "pt"})
    _write(out_dir / "config.json", config)
    return out_dir


def _spec(model: Decoder) -> Spec:
    modules = list(activation_modules(model).values())
    if not modules:
        raise Error(
            "an exported decoder must have integrand's activations, got none; build it with one"
        )
    if any(p.shape != (1,) for m in modules for p in m.parameters()):
        raise Error(
            "transformers holds one value of each activation parameter per layer, got values per "
            "channel; train without activation_per_channel to export"
        )
    if (spec := getattr(modules[0], "spec", None)) is None:
        raise Error(
            f"an exported activation must have a declaration, got {type(modules[0]).__name__}; "
            "train with one of the catalogue or of a spec"
        )
    return spec


def _shape(config: DecoderConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_model // config.heads,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _act(spec: Spec, model_type: str) -> dict[str, Any]:
    """hidden_act: transformers' own name where it means the same function."""
    # Apertus alone builds an activation with trained parameters from transformers' own name
    native = {**NATIVE, "xielu": "xielu"} if model_type == "apertus" else NATIVE
    if spec.name in native and spec == activation(spec.name).spec:
        return {"hidden_act": native[spec.name]}
    return config_fields(spec)


def _write_tokenizer(
    source: Path, out_dir: Path, context: int, separator: str | None
) -> int | None:
    known = json.loads(source.read_text(encoding="utf-8"))
    ends = {t["content"]: t["id"] for t in known.get("added_tokens", ())}
    if separator is not None and separator not in ends:
        raise Error(f"{source} must have the special token {separator!r}, got {sorted(ends)}")
    shutil.copyfile(source, out_dir / "tokenizer.json")
    _write(
        out_dir / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            "bos_token": separator,
            "eos_token": separator,
        },
    )
    return None if separator is None else ends[separator]


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
