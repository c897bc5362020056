"""Modules: pointwise, gated, MLP blocks, and the optimiser groups they need."""

from integrand.nn.gated import Gated
from integrand.nn.groups import parameter_groups
from integrand.nn.mlp import MLP, GatedMLP
from integrand.nn.pointwise import Pointwise

__all__ = ["MLP", "Gated", "GatedMLP", "Pointwise", "parameter_groups"]
