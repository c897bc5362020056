"""Layers whose units have one of two activations."""

from __future__ import annotations

from typing import Any


def critical_share(first: Any, second: Any) -> float | None:
    """The share p of units with `first`, the others with `second`, that is critical at variance 0.

    Each unit draws one of the two activations and keeps it. Small variances neither shrink nor grow
    in second order where p g2(first) + (1 - p) g2(second) = 0, g2 an activation's
    `properties.curvature`: SiLU with tanh 32/35. None where both shrink, both grow, or one has no
    g2. Source: arXiv:2605.05294.
    """
    a, b = first.properties.curvature, second.properties.curvature
    return None if a is None or b is None or a * b >= 0 else b / (b - a)
