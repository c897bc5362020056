"""How much of a block's output is lost as its smallest neurons are left out, on average.

    CETT(x, ε) = ||Σ_{i: ||n_i(x)|| <= ε} n_i(x)|| / ||Σ_i n_i(x)||,   n_i(x) = h_i(x) W_d[:, i]

the cumulative error of tail truncation (arXiv:2402.03804, written out in arXiv:2411.02335, eq. 3),
averaged over tokens. The bias of the map back is no neuron's: it is in neither sum. A token none of
whose neurons adds anything has no CETT and does not count. Everything is computed in fp32, whatever
the model is stored in.

All thresholds at once: a token's neurons are sorted by magnitude and summed in that order, so that
one pass costs about as much as two products with W_d, and nothing of size tokens x H x D is kept.
The candidate thresholds are the non-negative bf16 numbers, 0.4 to 0.8 % apart, with no cap at a
quantile.

Dimensions: T tokens, D d_model, H d_hidden.
"""

from __future__ import annotations

import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from integrand.errors import BackendError
from integrand.kernels.c_build import library
from integrand.sparsity.masking import magnitudes

BINS = 1 << 15  # the non-negative bf16 numbers, by their bits
LANES = 16
AT_ONCE = 1 << 24  # elements of a running sum without the C kernel: 64 MiB
log = logging.getLogger("integrand")


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over tokens; by bin where a threshold is the bin's bf16 number or the one before."""

    count: np.ndarray  # (BINS,) neurons of that magnitude
    ratio: np.ndarray  # (BINS,) what they add to the sum of CETT
    power: np.ndarray  # (BINS,) what they add to the sum of ||Σ_{left out} n_i||^2
    at_rank: np.ndarray  # (R,) sum of CETT with so many neurons left out of each token
    totals: np.ndarray  # (2,) tokens with an output, sum of their ||Σ n_i||^2

    @staticmethod
    def none(ranks: int) -> Losses:
        sums = (np.zeros(n) for n in (BINS, BINS, ranks, 2))
        return Losses(np.zeros(BINS, np.int64), *sums)

    def add(self, other: Losses) -> None:
        for name in self.__slots__:
            getattr(self, name).__iadd__(getattr(other, name))


def add_losses(to: Losses, h: Tensor, norms: Tensor, columns: Tensor, ranks: np.ndarray) -> None:
    """Add the tokens of h (T, H) to the sums `to`.

    Args:
        norms: ||W_d[:, i]|| (H,) in fp32.
        columns: W_d transposed, (H, D) in fp32, D padded by zeros to a multiple of 16.
        ranks: (R,) int64, numbers of neurons left out, each from 1 to H.
    """
    h = h.detach().float()
    if not len(h):
        return
    add = _in_c() if h.device.type == "cpu" else None
    if add is None:
        at_once = max(1, AT_ONCE // columns.numel())
        for part in h.split(at_once):
            to.add(_by_sorting(part, norms, columns, ranks))
        return
    parts = [p.contiguous() for p in h.tensor_split(min(torch.get_num_threads(), len(h)))]

    def run(part: Tensor) -> Losses:
        sums = Losses.none(len(ranks))
        inputs = (part.data_ptr(), norms.data_ptr(), columns.data_ptr(), *part.shape)
        outputs = (getattr(sums, name).ctypes.data for name in sums.__slots__)
        if add(*inputs, columns.shape[1], ranks.ctypes.data, len(ranks), *outputs):
            raise MemoryError("cett.c")
        return sums

    with ThreadPoolExecutor(len(parts)) as pool:
        # in the order of the tokens: the same sums from run to run
        for sums in pool.map(run, parts):
            to.add(sums)


@cache
def _in_c() -> ctypes._CFuncPtr | None:
    text = files("integrand.sparsity").joinpath("cett.c").read_text(encoding="utf-8")
    try:
        function = library(text).add_losses
    except BackendError as error:
        log.warning("CETT is computed by torch, some ten times slower: %s", error)
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [*[pointer] * 3, *[count] * 3, pointer, count, *[pointer] * 5]
    return function


def _by_sorting(h: Tensor, norms: Tensor, columns: Tensor, ranks: np.ndarray) -> Losses:
    """The same in torch, for other devices; memory T H D, so T must be small."""
    size, order = magnitudes(h, norms).sort(dim=1, stable=True)
    running = (columns[order] * h.gather(1, order).unsqueeze(2)).cumsum(1)
    lost = running.square().sum(2).double()  # (T, H): with this neuron and all smaller left out
    whole = lost[:, -1:]
    loud = whole.squeeze(1) > 0
    bins = ((size.view(torch.int32) + 0xFFFF) >> 16).long()
    ratio = (lost[loud] / whole[loud]).sqrt()
    before = torch.zeros_like(whole[loud])
    sums = [
        torch.zeros(BINS, dtype=torch.float64, device=h.device).index_add_(
            *(0, bins[loud].flatten(), each.diff(dim=1, prepend=before).flatten())
        )
        for each in (ratio, lost[loud])
    ]
    at_rank = ratio[:, torch.from_numpy(ranks - 1).to(h.device)].sum(0)
    totals = torch.stack([loud.sum().double(), whole.sum()])
    counts = torch.bincount(bins.flatten(), minlength=BINS)
    return Losses(*(each.cpu().numpy() for each in (counts, *sums, at_rank, totals)))


@dataclass(frozen=True, slots=True)
class Curve:
    """CETT and sparsity by threshold on ||n_i||, ascending from 0: arrays of one length."""

    thresholds: np.ndarray
    sparsity: np.ndarray  # share of neurons with ||n_i|| <= threshold
    cett: np.ndarray  # mean over tokens
    pooled: np.ndarray  # sqrt(Σ_t ||left out||^2 / Σ_t ||output||^2): large outputs weigh more

    def at(self, cett: float) -> int:
        """The index of the largest threshold up to which CETT stays within `cett`."""
        # a mean over tokens may fall a little where errors cancel: the first crossing decides;
        # that of the whole is 1 up to rounding
        above = self.cett > cett + 1e-6
        return int(above.argmax()) - 1 if above.any() else len(above) - 1


def curve(losses: Losses) -> Curve:
    bins = np.flatnonzero(losses.count)
    bins = bins if len(bins) and bins[0] == 0 else np.concatenate([[0], bins])
    neurons, (tokens, power) = losses.count.sum(), losses.totals
    share = [np.cumsum(x[bins]) for x in (losses.count, losses.ratio, losses.power)]
    return Curve(
        (bins.astype(np.uint32) << 16).view(np.float32).astype(np.float64),
        share[0] / max(1, neurons),
        share[1] / max(1, tokens),
        np.sqrt(np.maximum(0, share[2]) / power) if power else share[2],
    )
