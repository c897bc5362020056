"""What decides a run: data, model, optimiser, schedule. Equal configs give equal losses."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from integrand.errors import Error
from integrand.models.decoder import DecoderConfig, Llama3Rope
from integrand.models.field_ranges import (
    ABOVE_0,
    AT_LEAST_1,
    NOT_NEGATIVE,
    SHARE,
    Ranges,
    check_ranges,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where text comes from and how it becomes tokens.

    `source` is `python-docs` (the standard library of the running Python: no download), a path to
    a .txt, .jsonl or .parquet file or to a folder of them, or `hf:NAME[:SUBSET]`. All are streamed.
    """

    source: str = "python-docs"
    vocab_size: int = 2048
    tokenizer: str | None = None  # a tokenizer.json; None: a byte-level BPE is trained on the text
    max_characters: int = 100_000_000
    held_out: float = 0.03  # share of the documents kept for evaluation, by hash of their text


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. Rates are per step, counts in steps, sequences or tokens as their names say."""

    model: DecoderConfig
    activation: str
    activation_fixed: tuple[str, ...] = ()  # parameters held at their initial values
    activation_trained: tuple[str, ...] = ()  # parameters trained though declared constant
    activation_per_channel: bool = False  # parameters of shape (d_hidden,), not (1,)
    activation_dtype: Literal["fp32", "bf16"] = "fp32"  # of the raw parameters
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0
    steps: int = 1000
    batch_size: int = 16  # sequences per step
    accumulate: int = 1  # micro-batches that a step's sequences are split into
    context: int = 128  # tokens per sequence
    mask_documents: bool = False  # attention and positions end where a document does
    goldfish_k: int = 0  # one label in k is left out of the loss (arXiv:2406.10209); 0: none
    goldfish_context: int = 50  # tokens that decide whether a label is left out
    optimizer: Literal["adamw", "muon", "ademamix"] = "adamw"
    schedule: Literal["wsd", "cosine"] = "wsd"
    lr: float = 3e-3
    lr_first: float = 0.0  # share of the peak rate that the warm-up starts from
    lr_last: float = 0.0  # share of the peak rate that the decay ends at
    warmup_steps: int = 100
    decay_steps: int = 200  # of wsd; cosine decays from the warm-up to the end
    betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    muon_lr_scale: float = 1.0  # the rate of Muon's matrices, relative to lr
    ademamix_beta3: float = 0.9999
    ademamix_alpha: float = 8.0
    ademamix_warmup_steps: int = 0  # of alpha and beta3; 0: as many as the run has
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
    compile: bool = False  # torch.compile of the forward pass with its loss
    parallel: Literal["none", "ddp", "fsdp"] = "none"  # under torchrun
    impl: str = "auto"  # of the activation

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise Error(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        if self.batch_size % self.accumulate:
            raise Error(
                f"accumulate must divide batch_size, got {self.accumulate} and {self.batch_size}"
            )
        if self.goldfish_k == 1:
            raise Error("goldfish_k must be 0 (off) or at least 2, got 1")
        if self.goldfish_k and self.goldfish_context > self.context + 1:
            raise Error(
                "goldfish_context must fit into the context + 1 tokens of a row, got "
                f"{self.goldfish_context} for a context of {self.context}: no label would be left "
                "out; shorten it"
            )
        try:
            torch.device("cpu" if self.device == "auto" else self.device)
        except RuntimeError:
            raise Error(
                f"device must be auto or one that torch knows, such as cpu or cuda:0, got "
                f"{self.device!r}"
            ) from None
        decay = self.decay_steps if self.schedule == "wsd" else 0
        if self.warmup_steps + decay > self.steps:
            raise Error(
                f"warmup_steps + decay_steps must fit into steps, got {self.warmup_steps} + "
                f"{decay} > {self.steps}; shorten one of them"
            )
        if self.data.vocab_size > self.model.vocab_size:
            raise Error(
                "the model needs an embedding for every token, got vocab_size "
                f"{self.model.vocab_size} in the model and {self.data.vocab_size} in the data"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back: tuples are lists."""
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        if not self.model.activate_up:
            del fields["model"]["activate_up"]  # configs from before it was keep their hash
        return fields

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "TrainConfig":
        """The config that `to_dict` described."""
        model = dict(given["model"])
        if model["rope_scaling"] is not None:
            model["rope_scaling"] = Llama3Rope(**model["rope_scaling"])
        fields: dict[str, Any] = dict(given)
        fields["model"] = DecoderConfig(**model)
        fields["data"] = DataConfig(**given["data"])
        for name in ("betas", "activation_fixed", "activation_trained"):
            if name in fields:  # a run from before a field existed has its default
                fields[name] = tuple(fields[name])
        return cls(**fields)

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


RANGES: Ranges = {
    **dict.fromkeys(
        ("steps", "batch_size", "accumulate", "context", "goldfish_context", "log_every",
         "eval_every", "eval_sequences", "checkpoint_every"),
        AT_LEAST_1,
    ),
    **dict.fromkeys(
        ("goldfish_k", "warmup_steps", "decay_steps", "ademamix_warmup_steps", "weight_decay",
         "activation_weight_decay"),
        NOT_NEGATIVE,
    ),
    "seed": ("0 or above, below 2^63", lambda seed: 0 <= seed < 1 << 63),
    "lr": ("above 0 and finite", lambda rate: 0 < rate < math.inf),
    "lr_first": SHARE,
    "lr_last": SHARE,
    "betas": ("at least 0 and below 1", lambda betas: all(0 <= beta < 1 for beta in betas)),
    "ademamix_beta3": ("at least 0 and below 1", lambda beta: 0 <= beta < 1),
    "adam_eps": ABOVE_0,
    "clip_norm": ABOVE_0,
}  # fmt: skip
CHOICES = {
    "optimizer": ("adamw", "muon", "ademamix"),
    "schedule": ("wsd", "cosine"),
    "precision": ("fp32", "bf16"),
    "activation_dtype": ("fp32", "bf16"),
    "parallel": ("none", "ddp", "fsdp"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One side of a matched comparison: a feed-forward block with a name for tables.

    `activate_up` puts the activation of a gated block on both projections. `changes` are fields of
    `TrainConfig` that this variant sets, such as `{"activation_fixed": ("alpha_p",)}`. `like` names
    another variant: an ablation of it, compared with it, at its learning rate.
    """

    name: str
    activation: str
    gated: bool = False
    activate_up: bool = False
    like: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in self.name.lower())
