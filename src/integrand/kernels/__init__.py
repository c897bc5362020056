"""The scalar program as running code: torch reference, C; build cache; dispatch."""

from integrand.kernels.dispatch import IMPLEMENTATIONS, apply, constants, unwatched
from integrand.kernels.gated import apply_gated
from integrand.kernels.ops import register
from integrand.kernels.output_only import SAVES, OutputOnly

__all__ = [
    "IMPLEMENTATIONS",
    "SAVES",
    "OutputOnly",
    "apply",
    "apply_gated",
    "constants",
    "register",
    "unwatched",
]
