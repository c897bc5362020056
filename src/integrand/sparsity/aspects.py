"""Two more aspects of a measured model: can its active neurons be predicted, and what is it worth?

The aspects are those of arXiv:2402.03804. What is active is what a cost of 1 % of perplexity
leaves; a predictor has a cost of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import DataError
from integrand.sparsity.analysis import RISE, largest_within
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


def operating_thresholds(model: nn.Module, found: Mapping[str, Any]) -> Thresholds:
    """Thresholds on |h_i| of CETT-PPL-1 %: epsilon / ||W_d[:, i]||, in the file format of all.

    `found` is what `Analysis.to_dict` gives, or the file of a result, whose keys are text.
    """
    cett = found["cett_ppl_1_cett"]
    epsilons = [
        next(e for key, e in layer["thresholds"].items() if float(key) == cett)
        for layer in found["layers"]
    ]
    values = {
        f"hidden/{block.name}": torch.where(norm > 0, epsilon / norm, torch.inf)
        for block, epsilon in zip(feed_forwards(model), epsilons, strict=True)
        for norm in [down_norms(block)]
    }
    return Thresholds("cett", cett, fingerprint(model), values)


def predictivity(
    model: nn.Module,
    training: Tensor,
    rows: Tensor,
    found: Mapping[str, Any],
    separator: int | None = None,
) -> dict[str, Any]:
    """Predictors of 6 % of a block's size, fitted on `training`, measured on `rows` (N, T + 1).

    Active is what CETT-PPL-1 % keeps. `trained` is the two-layer one, `svd` needs no training; the
    first is also what the row's own keys hold.
    """
    thresholds = operating_thresholds(model, found)
    results: dict[str, Any] = {}
    for method in ("trained", "svd"):
        given = {"thresholds": thresholds, "separator": separator, "tell": _tell}
        predictors = fit(model, training, method, **given)
        result = assess(model, predictors, rows, separator)
        results[method] = {
            "recall": result.mean("recall"),
            "sparsity": result.mean("sparsity"),
            "sparsity_true": result.mean("sparsity_true"),
            "cost": result.mean("cost"),
            "bytes": result.mean("bytes"),
            "rise": result.rise,
        }
    return {
        "predictor_recall": results["trained"]["recall"],
        "predictor": results["trained"],
        "predictor_svd": results["svd"],
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def decode(
    model: nn.Module,
    rows: Tensor,
    found: Mapping[str, Any],
    separator: int | None = None,
) -> dict[str, float]:
    """What decoding has to read, of the rows of weights in a block, at a cost of 1 % of perplexity.

    Skipping looks at the activation alone: in a plain block at h, thresholded as at CETT-PPL-1 %;
    in a gated one at act(gate), whose per-channel thresholds (CHESS) are raised until they cost 1 %
    of perplexity. They are calibrated on the first rows; the cost, and what is active, are those on
    the `tokens` of the others.

    Raises:
        DataError: one row alone, of a gated block.
    """
    form = found["layers"][0]["form"]
    if form == "plain":
        thresholds = operating_thresholds(model, found)
        rise = found["perplexity_sparse"] / found["perplexity"] - 1
    else:
        if len(rows) < 2:
            raise DataError(
                "decoding a gated block needs two rows at least, one to calibrate on and one that "
                "tells the cost, got 1; pass more tokens"
            )
        some = min(max(1, CALIBRATION_TOKENS // (rows.shape[1] - 1)), len(rows) // 2)
        first, rows = rows[:some], rows[some:]
        tried: dict[float, tuple[Thresholds, float]] = {}

        def cost(target: float) -> float:
            own = calibrate(model, first, "chess", min(target, 0.999), separator)
            tried[target] = own, price(model, own, rows, separator).rise
            return tried[target][1]

        target = largest_within(cost, RISE, TOLERANCE)
        thresholds, rise = tried.get(target) or (calibrate(model, first, "chess", 0.0), 0.0)
    gate, hidden = _active(model, rows, thresholds, separator)
    return {
        **{"active_gate": gate, "active": hidden, "rise": rise, "tokens": rows[:, 1:].numel()},
        # rows of up are read for active gates, rows of down for active neurons
        "rows_read": hidden if form == "plain" else (gate + hidden) / 2,
    }


def decode_speedup(
    form: str,
    read: float,
    table: Sequence[Mapping[str, Any]],
    grid: Sequence[Mapping[str, Any]] = (),
) -> float | None:
    """What that is worth in a block that decodes at batch 1 from memory; None: not measured.

    `table` and `grid` are rows of a measurement of decoding (`benchmarks/decode.py`). The speed is
    read off between those of the form in bf16, by the share of weights that are read, and is 1
    where the grid has found the dense product chosen.
    """
    case = f"{form}-bf16"
    rows = [r for r in table if r["case"] == case]
    dense = [
        {**r, "speedup": 1.0}
        for r in grid
        if r["case"] == case and r["batch"] == 1 and r["dense_chosen"] > 0.5
    ]
    return _between(read, [*rows, *dense]) if rows else None


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
    points = sorted((_read(row), 1 / row["speedup"]) for row in table)
    if not points:
        return None
    if points[-1][0] < 1:  # with every row read the block is the dense one
        points.append((1.0, 1.0))
    for (a, s), (b, t) in pairwise(points):
        if read <= b:
            share = max(0.0, read - a) / (b - a) if b > a else 0.0  # measured twice
            return 1 / (s + share * (t - s))
    return 1.0


def _read(row: Mapping[str, Any]) -> float:
    # of dReLU the sparsity is the gate's, and fewer rows of the map back are read
    return row.get("rows_read", 1 - row["sparsity"])
