"""Which neurons will be active, said before the block runs: low-rank predictors, and their price.

Dimensions: D d_model, H d_hidden, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from integrand.errors import DataError, Error
from integrand.sparsity.feed_forward import FeedForward, feed_forwards
from integrand.sparsity.frozen import frozen
from integrand.sparsity.masking import Rule, leaving_out
from integrand.sparsity.passes import mean_loss, token_rows, watching
from integrand.sparsity.thresholds import fingerprint, number, read_tensors, small

FORMAT = "integrand predictors 1"
MOST = 0.01  # of perplexity, that `enabled` lets a predictor cost


class Predictor(NamedTuple):
    """Neuron i is predicted active where second[i] first x + bias[i] > 0."""

    first: Tensor  # (r, D)
    second: Tensor  # (H, r)
    bias: Tensor  # (H,)

    def scores(self, x: Tensor) -> Tensor:
        """(..., H) in fp32 for x (..., D), what enters the block."""
        return x.float() @ self.first.t() @ self.second.t() + self.bias

    def cost(self, block: FeedForward) -> float:
        """Its numbers as a share of the block's: of bytes in one dtype, and of FLOPs."""
        own = sum(t.numel() for t in self)
        return own / sum(m.weight.numel() for m in block.matrices() if m is not None)


@dataclass(frozen=True, slots=True)
class Predictors:
    """One predictor for each block by name; how they were made; what counts as active.

    `active` has a threshold (H,) on |h_i| for each block: active is what lies above it, with 0 what
    is not exactly zero. `model` is the sha256 of the model's tensors.
    """

    method: str
    recall: float  # what they were calibrated for
    model: str
    blocks: Mapping[str, Predictor]
    active: Mapping[str, Tensor]

    def save(self, path: Path | str) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        tensors = {f"active/{name}": t for name, t in self.active.items()}
        for name, predictor in self.blocks.items():
            tensors |= {f"{part}/{name}": t for part, t in predictor._asdict().items()}
        metadata = {"format": FORMAT, "method": self.method, "recall": repr(self.recall)}
        save_file(
            {name: t.contiguous() for name, t in tensors.items()},
            path,
            metadata={**metadata, "model": self.model},
        )


def load_predictors(path: Path | str, model: nn.Module) -> Predictors:
    """The predictors of a file, checked to be those of `model`.

    Raises:
        DataError: no such file, another format, or another model.
    """
    metadata, tensors = read_tensors(path, FORMAT, ("method", "recall", "model"))
    names = [name.partition("/")[2] for name in tensors if name.startswith("first/")]
    try:
        blocks = {
            name: Predictor(*(tensors[f"{part}/{name}"] for part in Predictor._fields))
            for name in names
        }
        active = {name: tensors[f"active/{name}"] for name in names}
    except KeyError as error:
        raise DataError(f"{path} lacks the tensor {error}; fit the predictors anew") from None
    found = Predictors(
        metadata["method"], number(path, metadata, "recall"), metadata["model"], blocks, active
    )
    _check(found, model)
    return found


def _check(predictors: Predictors, model: nn.Module) -> list[FeedForward]:
    if (own := fingerprint(model)) != predictors.model:
        raise DataError(
            "predictors must be those of this model, got the ones of the model with sha256 "
            f"{predictors.model[:12]} for one with {own[:12]}; fit them anew"
        )
    blocks = feed_forwards(model)
    for block in blocks:
        width, inputs = block.matrices()[1].weight.shape
        predictor = predictors.blocks.get(block.name)
        active = predictors.active.get(block.name)
        tensors = [*(predictor or ()), *([] if active is None else [active])]
        shapes = [tuple(t.shape) for t in tensors]
        rank = next((len(t) for t in tensors if t.ndim and len(t)), 0)
        if not rank or shapes != [(rank, inputs), (width, rank), (width,), (width,)]:
            raise DataError(
                f"the predictor of '{block.name}' must map {inputs} inputs to {width} neurons, with"
                f" a threshold for each, got tensors {shapes}; fit the predictors anew"
            )
        if any(t.dtype is not torch.float32 or t.isnan().any() for t in tensors):
            raise DataError(
                f"the predictor of '{block.name}' must be of fp32 numbers, got "
                f"{', '.join(str(t.dtype)[6:] for t in tensors)}, with a NaN or another type; fit "
                "the predictors anew"
            )
    return blocks


@contextmanager
def predicting(model: nn.Module, predictors: Predictors) -> Iterator[None]:
    """Within: every block computes without the neurons that its predictor says are inactive.

    Raises:
        DataError: the predictors are not those of this model.
    """
    blocks = _check(predictors, model)
    with (
        _scored(blocks, predictors) as scores,
        leaving_out(blocks, [_below(score) for score in scores]),
    ):
        yield


def _below(score: Callable[[], Tensor]) -> Rule:
    # not `score <= 0`: where an input is NaN, the neuron computes and says so
    return lambda h: score() <= 0


@contextmanager
def _scored(
    blocks: list[FeedForward], predictors: Predictors
) -> Iterator[list[Callable[[], Tensor]]]:
    """Within: for each block a function that gives the scores (..., H) of its current call."""
    with ExitStack() as stack:
        given: dict[str, Tensor] = {}
        functions = []
        for block in blocks:
            device = block.matrices()[1].weight.device
            own = Predictor(*(t.to(device) for t in predictors.blocks[block.name]))
            stack.callback(block.inner[0].register_forward_pre_hook(_noting(given, block)).remove)
            functions.append(_scoring(own, given, block.name))
        yield functions


def _scoring(own: Predictor, given: dict[str, Tensor], name: str) -> Callable[[], Tensor]:
    return lambda: own.scores(given[name])


def _noting(given: dict[str, Tensor], block: FeedForward) -> Callable[..., None]:
    return lambda _, args: given.__setitem__(block.name, args[0].detach())


@dataclass(slots=True)
class Score:
    """A predictor on some text.

    Attributes:
        recall: predicted active and active, of the active (arXiv:2402.13516, appendix C).
        sparsity: predicted inactive, of all neurons; sparsity_true: inactive, of all.
        cost: of the predictor as a share of its block, in bytes and in FLOPs.
    """

    recall: float
    sparsity: float
    sparsity_true: float
    cost: float

    @property
    def bytes(self) -> float:
        """Weights read by one token, the predictor's among them, as a share of the block's."""
        return self.cost + 1 - self.sparsity


@dataclass(frozen=True, slots=True)
class Assessment:
    blocks: dict[str, Score]
    perplexity: float
    perplexity_predicted: float

    @property
    def rise(self) -> float:
        return self.perplexity_predicted / self.perplexity - 1

    def mean(self, attribute: str) -> float:
        """Over the blocks, which are of one width in most models."""
        return sum(getattr(s, attribute) for s in self.blocks.values()) / len(self.blocks)

    def __str__(self) -> str:
        return (
            f"recall {self.mean('recall'):.2%}, predicted sparsity {self.mean('sparsity'):.2%} of "
            f"{self.mean('sparsity_true'):.2%}, {self.mean('cost'):.2%} of the blocks' size, "
            f"{self.mean('bytes'):.2%} of their bytes read, perplexity {self.perplexity:.4g} -> "
            f"{self.perplexity_predicted:.4g} ({self.rise:+.2%})"
        )


def assess(
    model: nn.Module,
    predictors: Predictors,
    data: Tensor | Iterable[Tensor],
    separator: int | None = None,
) -> Assessment:
    """Recall, sparsity and cost on token ids (N, T + 1), and the perplexity with and without.

    Recall and sparsity are those in the dense model, where every block sees its true input.

    Raises:
        DataError: no token ids of this model's vocabulary, or predictors of another model.
    """
    rows = token_rows(data, model)
    with frozen(model):
        blocks = _check(predictors, model)
        counts = [[0, 0, 0, 0] for _ in blocks]
        with _scored(blocks, predictors) as scores:
            watchers = [
                _counting(c, s, predictors.active[b.name])
                for c, s, b in zip(counts, scores, blocks, strict=True)
            ]
            with watching(blocks, watchers):
                dense = _perplexity(model, rows, separator)
        with predicting(model, predictors):
            sparse = _perplexity(model, rows, separator)
    found = {
        block.name: Score(
            hits / active if active else 1.0,
            1 - predicted / elements,
            1 - active / elements,
            predictors.blocks[block.name].cost(block),
        )
        for block, (hits, active, predicted, elements) in zip(blocks, counts, strict=True)
    }
    return Assessment(found, dense, sparse)


def _counting(
    counts: list[int], score: Callable[[], Tensor], threshold: Tensor
) -> Callable[[Tensor], None]:
    def count(h: Tensor) -> None:
        predicted = ~(score() <= 0)
        active = ~small(h, threshold.to(h.device))
        for place, found in enumerate((predicted & active, active, predicted)):
            counts[place] += int(found.count_nonzero())
        counts[3] += h.numel()

    return count


def _perplexity(model: nn.Module, rows: Tensor, separator: int | None) -> float:
    nats, counted = mean_loss(model, rows, separator)
    return math.exp(min(700.0, float(nats.sum() / counted.sum().clamp_min(1))))


@contextmanager
def enabled(
    model: nn.Module,
    predictors: Predictors,
    data: Tensor | Iterable[Tensor],
    *,
    separator: int | None = None,
    force: bool = False,
) -> Iterator[Assessment]:
    """`predicting`, once `data` has shown what it costs.

    Raises:
        Error: perplexity rises by more than 1 %, and `force` is off.
        DataError: no token ids of this model's vocabulary, or predictors of another model.
    """
    found = assess(model, predictors, data, separator)
    if not found.rise <= MOST and not force:
        raise Error(
            f"a predictor may cost {MOST:.0%} of perplexity, got {found}; fit it for a higher "
            "recall or with more rank, or pass force=True"
        )
    with predicting(model, predictors):
        yield found
