"""The scalar program as running code: torch reference, C; build cache; dispatch."""

from integrand.kernels.dispatch import IMPLEMENTATIONS, apply, constants, unwatched
from integrand.kernels.gated import apply_gated
from integrand.kernels.ops import register

__all__ = ["IMPLEMENTATIONS", "apply", "apply_gated", "constants", "register", "unwatched"]
