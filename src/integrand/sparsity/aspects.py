"""Two more aspects of a measured model: can its active neurons be predicted, and what is it worth?

The aspects are those of arXiv:2402.03804. Both are taken at a cost of 1 % of perplexity.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from integrand.sparsity.analysis import RISE, Analysis, largest_within
from integrand.sparsity.calibration import calibrate
from integrand.sparsity.feed_forward import FeedForward, feed_forwards
from integrand.sparsity.fitting import fit
from integrand.sparsity.frozen import frozen
from integrand.sparsity.masking import down_norms
from integrand.sparsity.passes import mean_loss
from integrand.sparsity.predictors import assess
from integrand.sparsity.thresholds import (
    Gate,
    Thresholds,
    applying,
    fingerprint,
    gates,
    price,
)

TOLERANCE = 0.01  # of the share of gates left out
CALIBRATION_TOKENS = 4096


def operating_thresholds(model: nn.Module, analysis: Analysis) -> Thresholds:
    """Thresholds on |h_i| of CETT-PPL-1 %: epsilon / ||W_d[:, i]||, in the file format of all."""
    epsilons = analysis.thresholds(analysis.operating.cett)
    values = {
        f"hidden/{block.name}": torch.where(norm > 0, epsilon / norm, torch.inf)
        for block, epsilon in zip(feed_forwards(model), epsilons, strict=True)
        for norm in [down_norms(block)]
    }
    return Thresholds("cett", analysis.operating.cett, fingerprint(model), values)


def predictivity(
    model: nn.Module,
    training: Tensor,
    rows: Tensor,
    analysis: Analysis,
    separator: int | None = None,
) -> dict[str, Any]:
    """Predictors of 6 % of a block's size, fitted on `training`, measured on `rows` (N, T + 1).

    Active is what CETT-PPL-1 % keeps. `trained` is the two-layer one, `svd` needs no training; the
    first is also what the row's own keys hold.
    """
    thresholds = operating_thresholds(model, analysis)
    found: dict[str, Any] = {}
    for method in ("trained", "svd"):
        given = {"thresholds": thresholds, "separator": separator, "tell": _tell}
        predictors = fit(model, training, method, **given)
        result = assess(model, predictors, rows, separator)
        found[method] = {
            "recall": result.mean("recall"),
            "sparsity": result.mean("sparsity"),
            "sparsity_true": result.mean("sparsity_true"),
            "cost": result.mean("cost"),
            "bytes": result.mean("bytes"),
            "rise": result.rise,
        }
    return {
        "predictor_recall": found["trained"]["recall"],
        "predictor": found["trained"],
        "predictor_svd": found["svd"],
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def decode(
    model: nn.Module,
    rows: Tensor,
    analysis: Analysis,
    separator: int | None = None,
) -> dict[str, float]:
    """What decoding has to read, of the rows of weights in a block, at a cost of 1 % of perplexity.

    Skipping looks at the activation alone: in a plain block at h, thresholded as at CETT-PPL-1 %;
    in a gated one at act(gate), whose per-channel thresholds (CHESS) are raised until they cost 1 %
    of perplexity.
    """
    form = analysis.layers[0].form
    if form == "plain":
        thresholds, rise = operating_thresholds(model, analysis), analysis.operating.rise
    else:
        some = rows[: max(1, CALIBRATION_TOKENS // (rows.shape[1] - 1))]
        tried: dict[float, tuple[Thresholds, float]] = {}

        def cost(target: float) -> float:
            own = calibrate(model, some, "chess", min(target, 0.999), separator)
            tried[target] = own, price(model, own, some, separator).rise
            return tried[target][1]

        target = largest_within(cost, RISE, TOLERANCE)
        thresholds, rise = tried.get(target) or (calibrate(model, some, "chess", 0.0), 0.0)
    gate, hidden = _active(model, rows, thresholds, separator)
    # rows of up are read for active gates, rows of down for active neurons
    read = hidden if form == "plain" else (gate + hidden) / 2
    return {"active_gate": gate, "active": hidden, "rise": rise, "rows_read": read}


def decode_speedup(form: str, read: float, table: Sequence[Mapping[str, Any]]) -> float | None:
    """What that is worth in a block that decodes at batch 1 from memory.

    `table` are the rows of a measurement of decoding (`benchmarks/decode.py`); the speed is read
    off between those of bf16, by the share of weights that are read.
    """
    case = "plain-bf16" if form == "plain" else "gated-bf16"
    return _between(read, [r for r in table if r["case"] == case])


def _active(
    model: nn.Module, rows: Tensor, thresholds: Thresholds, separator: int | None
) -> tuple[float, float]:
    """Shares of act(gate) and of h that are kept; in a plain block they are one."""
    blocks = feed_forwards(model)
    kept = torch.zeros(3, dtype=torch.float64)  # gates, neurons, all

    def counting(block: FeedForward, gate: Callable[[], Gate]) -> Callable[..., None]:
        limit = thresholds.values.get(f"gate/{block.name}", torch.zeros(()))

        def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            h = given[0]
            first = h if block.form == "plain" else gate()[0]
            found = (first.abs() > limit).count_nonzero(), h.count_nonzero(), h.numel()
            kept.add_(torch.tensor([float(n) for n in found], dtype=torch.float64))

        return count

    with frozen(model), ExitStack() as stack:
        stack.enter_context(applying(model, thresholds))
        for block, gate in zip(blocks, stack.enter_context(gates(blocks)), strict=True):
            stack.callback(block.down.register_forward_pre_hook(counting(block, gate)).remove)
        mean_loss(model, rows, separator)
    return float(kept[0] / kept[2]), float(kept[1] / kept[2])


def _between(read: float, table: Sequence[Mapping[str, Any]]) -> float | None:
    """Speed at a share of rows read: time is linear in it, so its inverse is interpolated."""
    points = sorted((1 - row["sparsity"], 1 / row["speedup"]) for row in table)
    if not points:
        return None
    if points[-1][0] < 1:  # with every row read the block is the dense one
        points.append((1.0, 1.0))
    for (a, s), (b, t) in pairwise(points):
        if read <= b:
            share = max(0.0, read - a) / (b - a) if b > a else 0.0  # measured twice
            return 1 / (s + share * (t - s))
    return 1.0
