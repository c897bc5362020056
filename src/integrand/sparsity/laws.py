"""Published laws of activation sparsity, with their coefficients."""

from __future__ import annotations

import math

# The 2.4 B ReLU model of arXiv:2411.02335: (c, alpha, b, A0), the ratio as a fraction
RELU_2_4B = (1.56e-4, 1.53, -3.46, 0.0648)
# A0, the ratio that training approaches, by size in arXiv:2411.02335
RELU_LIMITS = {
    "0.1B": 0.0614, "0.2B": 0.0674, "0.4B": 0.0690, "0.8B": 0.0721, "1.2B": 0.0782, "2.4B": 0.0648,
}  # fmt: skip
SILU_LIMITS = {"0.1B": 0.409, "0.2B": 0.390, "0.4B": 0.385, "0.8B": 0.383, "1.2B": 0.382}


def relu_activation_ratio(billions: float, c: float, alpha: float, b: float, limit: float) -> float:
    """A(D) = exp(-c D^alpha + b) + A0: the share of active neurons after D billion tokens.

    It falls with training. Source: arXiv:2411.02335, eq. 4.
    """
    return math.exp(-c * billions**alpha + b) + limit


def silu_activation_ratio(billions: float, c: float, alpha: float, limit: float) -> float:
    """A(D) = -c / D^alpha + A0: it grows with training. Source: arXiv:2411.02335, eq. 5."""
    return -c / billions**alpha + limit


def prosparse_sparsity(strength: float) -> float:
    """1 - exp(-1.76 λ^0.30 + 3.49) / 100: the sparsity of a 7 B model after progressive L1.

    Of the last stage's λ alone, fitted for λ >= 0.01. Source: arXiv:2402.13516.
    """
    return 1 - math.exp(-1.76 * strength**0.30 + 3.49) / 100
