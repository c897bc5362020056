"""What decides a run: data, model, optimiser, schedule. Equal configs give equal losses."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from integrand.errors import Error
from integrand.models.decoder import DecoderConfig, Llama3Rope


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where text comes from and how it becomes tokens.

    `source` is `python-docs` (the standard library of the running Python: no download), a path to
    a .txt, .jsonl or .parquet file or to a folder of them, or `hf:NAME` (streamed).
    """

    source: str = "python-docs"
    vocab_size: int = 2048
    max_characters: int = 100_000_000
    held_out: float = 0.03  # share of the documents' characters kept for evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. Rates are per step, counts in steps, sequences or tokens as their names say."""

    model: DecoderConfig
    activation: str
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0
    steps: int = 1000
    batch_size: int = 16  # sequences per step
    context: int = 128  # tokens per sequence
    lr: float = 3e-3
    warmup_steps: int = 100
    decay_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    weight_decay: float = 0.1
    activation_lr_scale: float = 1.0
    activation_weight_decay: float = 0.0
    clip_norm: float = 1.0
    log_every: int = 1
    eval_every: int = 100
    eval_sequences: int = 128
    checkpoint_every: int = 100
    device: str = "auto"  # the accelerator where there is one, else cpu
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, weights stay fp32
    impl: str = "auto"  # of the activation

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "context", "log_every", "eval_every", "eval_sequences")
        for name in (*counts, "checkpoint_every"):
            if getattr(self, name) < 1:
                raise Error(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup_steps < 0 or self.decay_steps < 0:
            raise Error(
                "warmup_steps and decay_steps must not be negative, "
                f"got {self.warmup_steps} and {self.decay_steps}"
            )
        if self.warmup_steps + self.decay_steps > self.steps:
            raise Error(
                f"warmup_steps + decay_steps must fit into steps, got {self.warmup_steps} + "
                f"{self.decay_steps} > {self.steps}; shorten one of them"
            )
        if self.data.vocab_size > self.model.vocab_size:
            raise Error(
                "the model needs an embedding for every token, got vocab_size "
                f"{self.model.vocab_size} in the model and {self.data.vocab_size} in the data"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back: tuples are lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "TrainConfig":
        """The config that `to_dict` described."""
        model = dict(given["model"])
        if model["rope_scaling"] is not None:
            model["rope_scaling"] = Llama3Rope(**model["rope_scaling"])
        fields: dict[str, Any] = dict(given)
        fields["model"] = DecoderConfig(**model)
        fields["data"] = DataConfig(**given["data"])
        fields["betas"] = tuple(given["betas"])
        return cls(**fields)

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One side of a matched comparison: a feed-forward block with a name for tables."""

    name: str
    activation: str
    gated: bool = False

    @property
    def folder(self) -> str:
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in self.name.lower())
