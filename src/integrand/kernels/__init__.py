"""The scalar program as running code: torch reference, C; build cache; dispatch."""

from integrand.kernels.dispatch import IMPLEMENTATIONS, apply

__all__ = ["IMPLEMENTATIONS", "apply"]
