"""Optimisers by name, each with its activation parameters in a group of their own."""

import torch
from torch import nn

from integrand.nn.groups import parameter_groups
from integrand.train.config import TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that `config` names, over the parameters of `model`."""
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        lr=config.lr,
        activation_lr_scale=config.activation_lr_scale,
        activation_weight_decay=config.activation_weight_decay,
    )
    for group in groups:
        # a fused step leaves a tensor's version counter alone, and activation modules keep their
        # constrained values for inference until that counter moves
        if group["name"] == "activations":
            group["fused"] = False
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.adam_eps, fused=fused)
