"""Optimisers by name, each with its activation parameters in a group of their own."""

from typing import Any

from torch.optim import AdamW, Muon, Optimizer

from integrand.errors import Error
from integrand.models.decoder import Decoder
from integrand.nn.groups import parameter_groups
from integrand.train.config import TrainConfig

Groups = list[dict[str, Any]]


def make_optimizers(config: TrainConfig, model: Decoder) -> tuple[Optimizer, ...]:
    """The optimisers that `config` names: each parameter of `model` is in exactly one."""
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        lr=config.lr,
        activation_lr_scale=config.activation_lr_scale,
        activation_weight_decay=config.activation_weight_decay,
    )
    if config.optimizer == "ademamix":
        return (_ademamix(config, groups),)
    if config.optimizer == "muon":
        hidden, others = _split(groups, model)
        return _muon(config, hidden), _adamw(config, others)
    return (_adamw(config, groups),)


def _adamw(config: TrainConfig, groups: Groups) -> Optimizer:
    for group in groups:
        # a fused step leaves a tensor's version counter alone, and activation modules keep their
        # constrained values for inference until that counter moves
        if group["name"] == "activations":
            group["fused"] = False
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    return AdamW(groups, betas=config.betas, eps=config.adam_eps, fused=fused)


def _muon(config: TrainConfig, group: dict[str, Any]) -> Optimizer:
    """Muon (Newton-Schulz in bf16), each update scaled to the root mean square of AdamW's.

    That is `match_rms_adamw` of arXiv:2502.16982: 0.2 sqrt(max(rows, columns)) times the rate. One
    rate and one decay then fit the matrices here and everything that stays on AdamW, so that
    `muon_lr_scale` is 1 where `original` would need a rate of its own for every width.
    """
    group = {**group, "lr_scale": config.muon_lr_scale, "lr": config.lr * config.muon_lr_scale}
    return Muon([group], adjust_lr_fn="match_rms_adamw")


def _split(groups: Groups, model: Decoder) -> tuple[dict[str, Any], Groups]:
    """Matrices of the layers apart from the embeddings, the head, vectors and activations."""
    layers = {id(p) for p in model.model.layers.parameters()}
    matrices, *others = groups
    hidden = [p for p in matrices["params"] if id(p) in layers]
    outer = [p for p in matrices["params"] if id(p) not in layers]
    return {**matrices, "name": "hidden", "params": hidden}, [
        {**matrices, "params": outer},
        *others,
    ]


def _ademamix(config: TrainConfig, groups: Groups) -> Optimizer:
    """AdEMAMix (arXiv:2409.03137), its slow average and that one's share warmed up.

    p -= lr ((m1 / (1 - beta1^t) + alpha_t m2) / (sqrt(v / (1 - beta2^t)) + eps) + decay p), alpha_t
    linear in t, beta3_t linear in half-life from beta1.
    """
    try:
        from pytorch_optimizer import AdEMAMix
    except ImportError:
        raise Error(
            "optimizer='ademamix' needs pytorch_optimizer; pip install pytorch_optimizer"
        ) from None
    return AdEMAMix(
        groups,
        betas=(*config.betas, config.ademamix_beta3),
        alpha=config.ademamix_alpha,
        t_alpha_beta3=config.ademamix_warmup_steps or config.steps,
        eps=config.adam_eps,
        weight_decouple=True,
    )
