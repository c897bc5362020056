"""How sparse the feed-forward blocks of a model are, and what leaving neurons out costs.

Everything is measured: a threshold's perplexity is that of the model run with it switched on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from integrand.errors import DataError, Error
from integrand.sparsity.activity import Activity, Counts
from integrand.sparsity.cett import Curve, curve
from integrand.sparsity.feed_forward import FeedForward, Form, understood, warn_of
from integrand.sparsity.frozen import frozen
from integrand.sparsity.masking import Rule, at_most, down_norms, leaving_out, smallest
from integrand.sparsity.passes import mean_loss, token_rows, watching
from integrand.sparsity.tally import Residual, Tally
from integrand.train.progress import ProgressLine

CETTS = (0.05, 0.1, 0.2)
SHARES = (0.5, 0.8, 0.9, 0.95)
RISE = 0.01  # of the perplexity, at the operating point
TOLERANCE = 1e-3  # of its CETT
CURVE_TOKENS = 4096  # of the curves of perplexity against sparsity: as a ratio it is paired
By = Literal["cett", "top_k", "global"]


@dataclass(frozen=True, slots=True)
class Point:
    """The model run with neurons left out: `by` is how they were chosen, `value` how many.

    cett: ||n_i|| within the layer's threshold for this CETT, one CETT for all layers; top_k: this
    share of each token's neurons, the smallest ||n_i||; global: |h_i| within this one threshold for
    all layers (the method arXiv:2411.02335 calls FAT applies it to the gate's activation).
    """

    by: By
    value: float
    sparsity: float  # the share of h that was zero when it entered the maps back
    rise: float  # of the perplexity: 0.01 is 1 %
    tokens: int


@dataclass(frozen=True, slots=True)
class Operating:
    """CETT-PPL-1 %: the largest CETT, one for all layers, whose perplexity is within 1 % of dense.

    Found to 1e-3. `sparsity` is that of the dense model's activations at those thresholds, as the
    reference code has it (arXiv:2411.02335); `sparsity_in_use` that of the model run with them,
    whose later layers see what the earlier ones left.
    """

    cett: float
    rise: float
    sparsity: float
    sparsity_in_use: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One block; `thresholds` on ||n_i|| by CETT, the last one that of the operating point."""

    name: str
    form: Form
    d_hidden: int
    exact_zeros: float  # the share of h that is 0
    thresholds: dict[float, float]
    sparsity: dict[float, float]  # at those thresholds
    pooled: dict[float, float]  # Σ over tokens under the root: the CETT of large outputs
    top_k: dict[float, float]  # CETT by the share of each token's neurons left out
    silent: float  # the share of tokens to which no neuron adds anything
    never: float  # the share of neurons whose h is 0 for every token
    activity: Activity  # at the operating point
    hidden_max: float  # of |h|
    hidden_max_over_rms: float
    residual_max: float  # of |x| in the stream after the layer; 0 where no layer is around
    residual_coordinate: int  # of that
    residual_over_median: float  # the largest max |x| / median |x| of a token
    curve: Curve = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Analysis:
    layers: tuple[Layer, ...]
    tokens: int
    loss: float  # nats per token, dense
    operating: Operating
    points: tuple[Point, ...]  # perplexity against sparsity; the search's own among them
    # the reason for each block that is not understood, and so not measured, by name
    left: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def mean(self, of: Callable[[Layer], float]) -> float:
        """Over all neurons: layers weigh by their width; NaN, of too few tokens, has no weight."""
        found = [(x.d_hidden, of(x)) for x in self.layers]
        found = [(width, value) for width, value in found if not math.isnan(value)]
        total = sum(width for width, _ in found)
        return sum(width * value for width, value in found) / total if found else math.nan

    def thresholds(self, cett: float) -> list[float]:
        """One threshold for each block, for `masking`: the layers' own for this CETT."""
        return [float(x.curve.thresholds[x.curve.at(cett)]) for x in self.layers]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; of a curve what lies nearest to a few values of CETT."""
        rows = []
        for layer in self.layers:
            row = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
            row |= dataclasses.asdict(row.pop("activity"))
            row["curve"] = _sample(row.pop("curve"))
            rows.append(row)
        own = {n: self.mean(lambda x, n=n: getattr(x.activity, n)) for n in Activity.__slots__}
        own = {n: None if math.isnan(value) else value for n, value in own.items()}
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "perplexity_sparse": self.perplexity * (1 + self.operating.rise),
            "tokens": self.tokens,
            "exact_zeros": self.mean(lambda x: x.exact_zeros),
            "cett_ppl_1": self.operating.sparsity,
            "cett_ppl_1_cett": self.operating.cett,
            "cett_ppl_1_in_use": self.operating.sparsity_in_use,
            "sparsity": {str(c): self.mean(lambda x, c=c: x.sparsity[c]) for c in CETTS},
            **own,
            "never": self.mean(lambda x: x.never),
            "predictor_recall": None,
            "decode_speedup": None,
            "points": [dataclasses.asdict(p) for p in self.points],
            "layers": rows,
            "left": dict(self.left),
        }


def analyze(
    model: nn.Module,
    data: Tensor | Iterable[Tensor],
    *,
    separator: int | None = None,
    label: str = "sparsity",
    quiet: bool = False,
) -> Analysis:
    """The sparsity of every feed-forward block of `model` on `data`, and its price.

    One dense pass gives zeros, magnitudes and the whole CETT curve of every block; then the model
    is run with neurons left out, until the CETT that costs 1 % of perplexity is known to 1e-3; a
    last pass at that point counts which neurons are active together. Memory beside the model:
    O(H D) for each block, whatever the number of tokens.

    Args:
        model: with blocks that `feed_forwards` understands; its call takes token ids (B, T) and
            gives logits (B, T, V), or an object with `logits`.
        data: token ids (N, T + 1): T inputs and the T tokens after them. The committed results
            read 16,384; a measure depends on the text (arXiv:2411.02335).
        separator: the token between documents of a model trained with documents apart.
        label: what the progress on stderr is called; `quiet` for none.

    Raises:
        DataError: no token ids of this model's vocabulary.
        Error: no block, no weights, or activations that are not finite.
    """
    with frozen(model):
        blocks, left = understood(model)
        rows = token_rows(data, model)
        warn_of(left)
        found = _Measurement(model, blocks, rows, separator, label, quiet).run()
        return dataclasses.replace(found, left=left)


class _Measurement:
    """A model, its blocks and its tokens, and what is known of them so far."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[FeedForward],
        rows: Tensor,
        separator: int | None,
        label: str,
        quiet: bool,
    ) -> None:
        self.model, self.blocks, self.rows, self.separator = model, blocks, rows, separator
        self.norms = [down_norms(b) for b in blocks]
        self.some = rows[: max(1, CURVE_TOKENS // (rows.shape[1] - 1))]
        self.points: list[Point] = []
        self.done = 0
        # a dense pass with its sums, some four of the search, the last; the curves see fewer rows
        planned = 7 * len(rows) + (3 * len(SHARES) + 4) * len(self.some)
        self.line = ProgressLine(label, 0, planned, quiet=quiet)

    def run(self) -> Analysis:
        tallies = [Tally(b, SHARES) for b in self.blocks]
        residuals = [Residual() for _ in self.blocks]
        with ExitStack() as hooks:
            hooks.enter_context(watching(self.blocks, [t.add for t in tallies]))
            for block, residual in zip(self.blocks, residuals, strict=True):
                if (layer := _layer(self.model, block)) is not None:
                    hooks.callback(layer.register_forward_hook(residual.hook).remove)
            self.nats, self.counted = self._losses(self.rows)
        self._check(tallies)
        self.curves = [curve(t.losses) for t in tallies]
        operating = self._search()
        self._against_sparsity(tallies)
        activity, in_use = self._activity(operating.value)
        self.line.show(self.line.steps, self._mean(self.nats, self.counted))
        layers = [
            _layer_result(*each, operating.value)
            for each in zip(self.blocks, tallies, self.curves, activity, residuals, strict=True)
        ]
        sparsity = self._sparsity(operating.value)
        return Analysis(
            tuple(layers),
            int(self.counted.sum()),
            self._mean(self.nats, self.counted),
            Operating(operating.value, operating.rise, sparsity, in_use),
            tuple(self.points),
        )

    def _check(self, tallies: Sequence[Tally]) -> None:
        if not self.counted[: len(self.some)].any():
            raise DataError(
                "data must hold a token to predict, among its first rows too, got separators alone;"
                " pass other text, or no separator"
            )
        if not math.isfinite(loss := self._mean(self.nats, self.counted)):
            raise Error(
                f"the model's loss must be finite, got {loss}; check its weights, or load it in a "
                "dtype with a wider range"
            )
        if unseen := [t.name for t in tallies if not t.tokens]:
            raise Error(
                f"every block must get a token, got none for '{unseen[0]}'; pass more text, or the "
                "model without it"
            )

    def _losses(self, rows: Tensor, begin: Any = None) -> tuple[Tensor, Tensor]:
        def tick(done: int, loss: float) -> None:
            self.done += done
            # a search of more passes than planned moves the end
            self.line.steps = max(self.line.steps, self.done + 1)
            self.line.show(self.done, loss)

        begin = begin or (lambda rows, tokens: None)
        return mean_loss(self.model, rows, self.separator, tick, begin)

    @staticmethod
    def _mean(nats: Tensor, counted: Tensor) -> float:
        return float(nats.sum() / counted.sum().clamp_min(1))

    def _point(self, by: By, value: float, rules: Sequence[Rule], rows: Tensor) -> Point:
        """The model run with these rules, against the dense losses of the same rows."""
        zeros = _Zeros()
        with leaving_out(self.blocks, rules), watching(self.blocks, [zeros.add] * len(rules)):
            nats, counted = self._losses(rows)
        dense = self._mean(self.nats[: len(rows)], self.counted[: len(rows)])
        rise = math.expm1(min(700.0, self._mean(nats, counted) - dense))
        point = Point(by, value, zeros.share, rise, int(counted.sum()))
        self.points.append(point)
        return point

    def _rules(self, cett: float) -> list[Rule]:
        return [at_most(n, t) for n, t in zip(self.norms, self._thresholds(cett), strict=True)]

    def _thresholds(self, cett: float) -> list[float]:
        return [float(c.thresholds[c.at(cett)]) for c in self.curves]

    def _sparsity(self, cett: float) -> float:
        """Of the dense model's activations."""
        widths = [len(n) for n in self.norms]
        found = [c.sparsity[c.at(cett)] for c in self.curves]
        return float(np.average(found, weights=widths))

    def _search(self) -> Point:
        """The point with the largest CETT that costs at most RISE."""

        def rise(rows: Tensor) -> Callable[[float], float]:
            return lambda cett: self._point("cett", cett, self._rules(cett), rows).rise

        start = 0.2
        if len(self.some) < len(self.rows):
            start = largest_within(rise(self.some), RISE, 5 * TOLERANCE, start)
        found = largest_within(rise(self.rows), RISE, TOLERANCE, start)
        tried = {p.value: p for p in self.points if p.tokens == int(self.counted.sum())}
        return tried.get(found) or self._point("cett", found, self._rules(found), self.rows)

    def _against_sparsity(self, tallies: Sequence[Tally]) -> None:
        values = np.sum([t.values.numpy() for t in tallies], axis=0)
        for share in SHARES:
            # below its exact zeros a model is the dense one
            if share > self._sparsity(0.0):
                cett = self._cett_of(share)
                self._point("cett", cett, self._rules(cett), self.some)
                bin_ = int(np.searchsorted(values.cumsum(), share * values.sum(), side="right"))
                level = float(np.array([bin_ << 16], np.uint32).view(np.float32)[0])
                rules = [at_most(torch.ones_like(n), level) for n in self.norms]
                self._point("global", level, rules, self.some)
                self._point("top_k", share, [smallest(n, share) for n in self.norms], self.some)

    def _cett_of(self, sparsity: float) -> float:
        """The CETT for all layers at which the model is as sparse."""
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if self._sparsity(middle) > sparsity else (middle, high)
        return low

    def _activity(self, cett: float) -> tuple[list[Activity], float]:
        """At the operating point, of the model run there; with the share of zeros."""
        thresholds, zeros = self._thresholds(cett), _Zeros()
        counts = [Counts(n, t) for n, t in zip(self.norms, thresholds, strict=True)]
        shape = [0, 0]

        def add(count: Counts) -> Callable[[Tensor], None]:
            # tokens of an expert follow none in their row
            return lambda h: count.add(
                h.reshape(*shape, -1)
                if h.shape[:-1].numel() == math.prod(shape)
                else h.reshape(-1, 1, h.shape[-1])
            )

        with (
            watching(self.blocks, [add(c) for c in counts]),
            leaving_out(self.blocks, self._rules(cett)),
            watching(self.blocks, [zeros.add] * len(counts)),
        ):
            self._losses(self.rows, lambda *found: shape.__setitem__(slice(None), found))
        return [c.result() for c in counts], zeros.share


class _Zeros:
    """The share of zeros in what enters the maps back."""

    def __init__(self) -> None:
        self.nonzero = self.elements = 0

    def add(self, h: Tensor) -> None:
        self.nonzero += int(h.count_nonzero())
        self.elements += h.numel()

    @property
    def share(self) -> float:
        return 1 - self.nonzero / self.elements


def largest_within(
    rise: Callable[[float], float], most: float, tolerance: float, start: float = 0.2
) -> float:
    """The largest x in [0, 1], to `tolerance`, with rise(x) <= most, for a rise from 0 that grows.

    A good `start` saves evaluations.

    A power law through what is known aims just past the root on the farther side, so that a few
    evaluations close the bracket where bisection takes ten.
    """
    low, high = (0.0, 0.0), (1.0, math.inf)
    x, halved = min(max(start, tolerance), 1 - tolerance), True
    while True:
        before = high[0] - low[0]
        y = rise(x)
        low, high = ((x, y), high) if y <= most else (low, (x, y))
        width = high[0] - low[0]
        if width <= tolerance:
            return low[0]
        aim = _power_law(low, high, most) if halved else None
        if aim is None:
            aim = (low[0] + high[0]) / 2
        else:
            aim += tolerance * (0.45 if high[0] - aim > aim - low[0] else -0.45)
        halved = not halved or width <= before / 2
        edge = min(tolerance, width) / 2
        x = min(max(aim, low[0] + edge), high[0] - edge)


def _power_law(low: tuple[float, float], high: tuple[float, float], most: float) -> float | None:
    """Where c x^p reaches `most`, through both points, or one with p = 2; None without any."""
    known = [p for p in (low, high) if p[0] > 0 and 0 < p[1] < math.inf]
    if not known:
        return None
    power = 2.0
    if len(known) == 2:
        power = math.log(high[1] / low[1]) / math.log(high[0] / low[0])
    x, y = min(known, key=lambda p: abs(math.log(p[1] / most)))
    return x * (most / y) ** (1 / power) if power > 0 else None


def _layer(model: nn.Module, block: FeedForward) -> nn.Module | None:
    """The layer around a block: what it hands on is the residual stream."""
    around = block.name.rpartition(".")[0]
    found = model.get_submodule(around) if around else None
    return None if isinstance(found, nn.ModuleList | nn.ModuleDict) else found


def _layer_result(
    block: FeedForward,
    tally: Tally,
    at: Curve,
    activity: Activity,
    residual: Residual,
    operating: float,
) -> Layer:
    places = {c: at.at(c) for c in (*CETTS, operating)}
    loud = float(tally.losses.totals[0])
    return Layer(
        block.name,
        block.form,
        block.d_hidden,
        tally.exact_zeros,
        {c: float(at.thresholds[i]) for c, i in places.items()},
        {c: float(at.sparsity[i]) for c, i in places.items()},
        {c: float(at.pooled[i]) for c, i in places.items()},
        dict(zip(SHARES, (tally.losses.at_rank / max(1.0, loud)).tolist(), strict=True)),
        1 - loud / tally.tokens,
        float((tally.nonzero == 0).double().mean()),
        activity,
        tally.largest,
        tally.over_rms,
        residual.largest,
        residual.coordinate,
        residual.over_median,
        at,
    )


def _sample(at: Curve) -> list[dict[str, float]]:
    places = dict.fromkeys(at.at(c) for c in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1))
    return [{name: float(getattr(at, name)[i]) for name in Curve.__slots__} for i in places]
