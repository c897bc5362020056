"""What a config amounts to, before anything is trained."""

from typing import NamedTuple

import torch

from integrand.models.decoder import Decoder
from integrand.nn.gated import MakesModule
from integrand.nn.groups import activation_modules
from integrand.train.activations import chosen
from integrand.train.compute import flops_per_token
from integrand.train.config import TrainConfig

STATE = {"adamw": 2, "ademamix": 3, "muon": 2}  # fp32 tensors per parameter; muon: at most


class Description(NamedTuple):
    """Sizes of a run; FLOPs count matrix products alone, forward and backward."""

    parameters: int
    weights: int  # without the activation's own parameters
    tokens: int
    tokens_per_parameter: float
    flops_per_token: float
    flops: float
    state_bytes: int  # weights, gradients and optimiser state in fp32, activations not counted

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters, {self.tokens:,} tokens "
            f"({self.tokens_per_parameter:,.1f} per parameter), {self.flops_per_token / 1e6:,.2f} "
            f"MFLOP per token, {self.flops:.3g} FLOP in all; weights, gradients and optimiser "
            f"state: {self.state_bytes / 2**20:,.0f} MiB"
        )


def describe(config: TrainConfig, activation: MakesModule | None = None) -> Description:
    """Sizes of a run, from its model on the meta device: any size, no memory.

    FLOPs are those of `flops_per_token`.
    """
    with torch.device("meta"):
        model = Decoder(config.model, chosen(config, activation), config.impl)
    parameters = sum(p.numel() for p in model.parameters())
    own = sum(p.numel() for m in activation_modules(model).values() for p in m.parameters())
    per_token = flops_per_token(config.model, config.context)
    tokens = config.steps * config.batch_size * config.context
    return Description(
        parameters=parameters,
        weights=parameters - own,
        tokens=tokens,
        tokens_per_parameter=tokens / parameters,
        flops_per_token=per_token,
        flops=per_token * tokens,
        state_bytes=4 * parameters * (2 + STATE[config.optimizer]),
    )
