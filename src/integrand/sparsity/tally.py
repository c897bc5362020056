"""What one dense pass tells of a block: magnitudes, CETT, zeros, what stands out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from integrand.errors import Error
from integrand.sparsity.cett import BINS, LANES, Losses, add_losses
from integrand.sparsity.feed_forward import FeedForward
from integrand.sparsity.masking import down_norms
from integrand.sparsity.passes import first_tensor


class Tally:
    """Sums over the tokens of one block; memory O(H D)."""

    def __init__(self, block: FeedForward, shares: Sequence[float]) -> None:
        """`shares`: of the neurons of each token, left out for `Losses.at_rank`."""
        self.name = block.name
        self.norms = down_norms(block)
        columns = block.matrices()[2].weight.detach().float().t()
        self.columns = nn.functional.pad(columns, (0, -columns.shape[1] % LANES)).contiguous()
        self.ranks = np.array([max(1, int(s * len(self.norms))) for s in shares], np.int64)
        self.losses = Losses.none(len(shares))
        self.values = torch.zeros(BINS, dtype=torch.int64)  # |h| by the bf16 number above
        self.nonzero = torch.zeros(len(self.norms), dtype=torch.int64)
        self.tokens = 0
        self.largest = self.squares = 0.0

    def add(self, h: Tensor) -> None:
        h = h.flatten(0, -2).float().contiguous()
        if not len(h):  # an expert that no token chose
            return
        size = h.abs()
        largest = float(size.amax())
        if not math.isfinite(largest):
            raise Error(
                f"the activations of '{self.name}' must be finite, got NaN or infinity; check the "
                "weights, or load the model in a dtype with a wider range"
            )
        add_losses(self.losses, h, self.norms, self.columns, self.ranks)
        bins = (size.view(torch.int32) + 0xFFFF) >> 16
        self.values += torch.bincount(bins.flatten(), minlength=BINS).cpu()
        self.nonzero += (h != 0).sum(0).cpu()
        self.tokens += len(h)
        self.largest = max(self.largest, largest)
        self.squares += float(h.double().square().sum())

    @property
    def exact_zeros(self) -> float:
        return 1 - float(self.nonzero.sum()) / (self.tokens * len(self.nonzero))

    @property
    def over_rms(self) -> float:
        rms = math.sqrt(self.squares / (self.tokens * len(self.norms)))
        return self.largest / rms if rms else math.nan


class Residual:
    """The largest coordinate of the stream that a layer hands on, and how far it stands out.

    Massive activations are few coordinates, mostly the same ones, thousands of times larger than
    their token's median (arXiv:2402.17762).
    """

    def __init__(self) -> None:
        self.largest = self.over_median = 0.0
        self.coordinate = -1

    def hook(self, module: nn.Module, given: object, output: object) -> None:
        size = first_tensor(output).detach().flatten(0, -2).float().abs()
        top, where = size.max(1)
        median = size.median(1).values.clamp_min(torch.finfo(torch.float32).tiny)
        self.over_median = max(self.over_median, float((top / median).amax()))
        token = int(top.argmax())
        if float(top[token]) > self.largest:
            self.largest, self.coordinate = float(top[token]), int(where[token])
