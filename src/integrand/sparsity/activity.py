"""Which neurons are active when: from token to token, together, often, never.

A neuron is active for a token where ||n_i|| exceeds the block's threshold.

- reuse: Σ_t |A_t ∩ A_{t-1}| / Σ_t |A_t| over the tokens t that follow one in their row: the share
  of a token's active neurons that the one before has brought in already.
- coactivation: c_ij, the share of i's tokens for which j is active too. The gap is the mean over
  i of max_{j≠i} c_ij - mean_{j≠i} c_ij; the lift is the mean over i of max_{j≠i} (c_ij - p_j), with
  p_j the share of all tokens for which j is active: what is left of the gap once the neurons that
  are active for every token are no longer everyone's best friend. The i are at most SAMPLED neurons
  evenly spaced over the block, those of them with LEAST_TOKENS or more: the largest of many shares
  of few tokens is 1 by chance.
- hot: the share of a block's neurons that cover COVERED of its activations, the fewest that do.
- dead: the share that is active for no token.

The definitions of reuse and co-activation are this library's own.

Dimensions: B rows, T tokens in each, H d_hidden, S sampled neurons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from integrand.sparsity.masking import magnitudes

SAMPLED = 256
LEAST_TOKENS = 32
COVERED = 0.8


@dataclass(frozen=True, slots=True)
class Activity:
    reuse: float
    coactivation_gap: float
    coactivation_lift: float
    hot: float
    dead: float


class Counts:
    """Sums over tokens of one block; memory S x H."""

    def __init__(self, norms: Tensor, threshold: float) -> None:
        width = len(norms)
        self.norms = norms
        self.threshold = threshold
        self.sampled = torch.linspace(0, width - 1, min(width, SAMPLED)).round().long()
        self.tokens = 0
        self.active = torch.zeros(width, dtype=torch.float64)
        self.together = torch.zeros(len(self.sampled), width, dtype=torch.float64)
        self.again = self.followers = 0

    def add(self, h: Tensor) -> None:
        """Count the tokens of h (B, T, H)."""
        active = magnitudes(h, self.norms) > self.threshold
        self.tokens += active.shape[0] * active.shape[1]
        self.again += int((active[:, 1:] & active[:, :-1]).sum())
        self.followers += int(active[:, 1:].sum())
        flat = active.flatten(0, 1).float()
        # whole numbers below 2^24: exact
        self.active += flat.sum(0).double().cpu()
        self.together += (flat[:, self.sampled.to(h.device)].T @ flat).double().cpu()

    def result(self) -> Activity:
        counts = self.active
        descending = counts.sort(descending=True).values.cumsum(0)
        covering = int((descending < COVERED * counts.sum()).sum()) + 1
        return Activity(
            self.again / self.followers if self.followers else math.nan,
            *self._coactivation(),
            covering / len(counts) if counts.any() else 0.0,
            float((counts == 0).double().mean()),
        )

    def _coactivation(self) -> tuple[float, float]:
        often = self.active[self.sampled] >= LEAST_TOKENS
        if not often.any() or len(self.active) < 2:
            return math.nan, math.nan
        own = self.sampled[often].unsqueeze(1)
        shares = self.together[often] / self.active[own]
        others = (shares.sum(1) - 1) / (shares.shape[1] - 1)
        highest = shares.scatter(1, own, -math.inf).amax(1)
        above = (shares - self.active / self.tokens).scatter(1, own, -math.inf).amax(1)
        return float((highest - others).mean()), float(above.mean())
