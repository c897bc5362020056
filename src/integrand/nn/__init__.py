"""Modules: pointwise, gated, MLP blocks; their parameters in optimisers and on many ranks."""

from integrand.nn.freeze import freeze, unfreeze
from integrand.nn.fsdp import shard
from integrand.nn.gated import Gated
from integrand.nn.groups import parameter_groups
from integrand.nn.growth import GrowthMonitor
from integrand.nn.initialise import initialise
from integrand.nn.mixture import critical_share
from integrand.nn.mlp import MLP, GatedMLP
from integrand.nn.pointwise import Pointwise
from integrand.nn.shards import need_distributed

__all__ = [
    "MLP",
    "Gated",
    "GatedMLP",
    "GrowthMonitor",
    "Pointwise",
    "critical_share",
    "freeze",
    "initialise",
    "parameter_groups",
    "shard",
    "unfreeze",
]


def __getattr__(name: str) -> object:
    # its base class lives in torch.distributed.tensor, which `import integrand` leaves alone
    if name == "ActivationParallel":
        need_distributed()
        from integrand.nn.tensor_parallel import ActivationParallel

        return ActivationParallel
    raise AttributeError(f"module 'integrand.nn' has no attribute '{name}'")
