"""Feed-forward blocks that skip the neurons an activation switches off, exactly.

h_i == 0 makes row i of the map back worth nothing, and act(gate_i) == 0 that of the map up too: at
batch 1, where a block takes as long as its weights take to read, they are not read.

Dimensions: B tokens, D d_model, H d_hidden, n active neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from integrand.errors import DataError, Error
from integrand.sparsity import row_skip
from integrand.sparsity.break_even import BATCHES, Plan, Step, plan
from integrand.sparsity.feed_forward import FeedForward, Matrix, feed_forwards
from integrand.sparsity.layout import Strides, laid, lay, restore

__all__ = ["Accelerated", "RowSkip", "accelerate"]


@dataclass(eq=False)
class Accelerated:
    """What `accelerate` did: `blocks` by name, and `left` with the reason for each block left."""

    blocks: dict[str, RowSkip]
    left: dict[str, str]

    def undo(self) -> None:
        """Give the model its own forward functions and strides back; no value changes."""
        for block in self.blocks.values():
            block.remove()
        self.blocks = {}

    def calls(self) -> dict[str, int]:
        """Calls so far by path: skipping, dense with the same weights, the model's own code."""
        paths = ("skipping", "dense", "original")
        return {p: sum(b.taken[p] for b in self.blocks.values()) for p in paths}


def accelerate(
    model: nn.Module,
    thresholds: Mapping[str, Tensor] | Any = None,
    *,
    break_even: float | None = None,
) -> Accelerated:
    """Make `model` skip inactive neurons while it decodes; the handle's `undo` ends it.

    Without thresholds the result is the dense one but for the order of its sums. Where skipping
    does not pay (too many active neurons, a large batch: measured once, `break_even.py`) a dense
    product is computed; with gradients, in training mode, under autocast, torch.compile or hooks
    inside a block, and for other dtypes than fp32 and bf16, the model's own code runs. Weights are
    laid anew, in place: same parameters, names, shapes and values, other strides.

    Args:
        thresholds: {"gate/BLOCK": (H,)} or an object with such `values`: neurons with |act(gate)|
            (|h| in a plain block) at most that are left out, on every path.
        break_even: skip up to this share of active neurons, whatever the batch, unmeasured.

    Raises:
        Error: no feed-forward block is understood, or one has been accelerated already.
        DataError: thresholds for no block, of another shape, or compared with something else.
        BackendError: no C compiler.
    """
    blocks = feed_forwards(model)
    limits = _thresholds(thresholds, blocks)
    handle = Accelerated({}, {})
    skips = []
    for block in blocks:
        if isinstance(vars(block.module).get("forward"), RowSkip):
            raise Error(f"block '{block.name}' is accelerated already; call undo() first")
        if reason := _why_not(block):
            handle.left[block.name] = reason
        else:
            skips.append(RowSkip(block, limits.get(block.name)))
    with torch.no_grad():
        plans = _measured(skips) if break_even is None else _fixed(skips, break_even)
    for skip, steps in zip(skips, plans, strict=True):
        name = skip.block.name
        if steps[0].own or steps[0].most or skip.threshold is not None:
            skip.plan = steps
            skip.block.module.forward = skip
            handle.blocks[name] = skip
        else:
            restore(skip.strides)
            handle.left[name] = "is too small: torch's dense product is as fast at batch 1"
    return handle


class Weights(NamedTuple):
    """The matrices as they are now; skipping is sound for max |x| up to `limit`."""

    key: tuple[Any, ...]
    gate: Matrix | None
    up: Matrix
    down: Matrix
    limit: float


class RowSkip:
    """The forward function of one block. An object, so that a copied model calls its own copy."""

    def __init__(self, block: FeedForward, threshold: Tensor | None) -> None:
        self.block, self.threshold = block, threshold
        self.plan: Plan = ()
        self.taken = {"skipping": 0, "dense": 0, "original": 0}
        self.strides: Strides = lay(block)
        self._kept: Weights | None = None

    def __getstate__(self) -> dict[str, Any]:
        # views of the weights: a copy looks at its own
        return {**vars(self), "_kept": None}

    def remove(self) -> None:
        del self.block.module.forward
        restore(self.strides)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.original(x, *args, **kwargs)
        weights = None if args or kwargs or not self._plain(x) else self.weights(x)
        if weights is None or x.numel() == 0:
            self.taken["original"] += 1
            return self.original(x, *args, **kwargs)
        flat = x.detach().reshape(-1, x.shape[-1]).contiguous()
        most = self.plan[-1]
        if len(flat) > most.batch and not most.own:
            self.taken["original"] += 1
            return self.original(x)
        parts = [self.feed(part, weights) for part in flat.split(most.batch)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.view(*x.shape[:-1], y.shape[-1])

    def original(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The model's own code, with the thresholds where there are any."""
        if self.threshold is not None:
            a, *up = self.block.inner_values(x)
            a = self.activated(a)
            if up:
                a = a * (self.block.act(up[0]) if self.block.form == "both" else up[0])
            return self.block.down(a)
        return type(self.block.module).forward(self.block.module, x, *args, **kwargs)

    def activated(self, first: Tensor) -> Tensor:
        """act, without what is at most its threshold; NaN is not."""
        a = self.block.act(first)
        if self.threshold is None:
            return a
        return a.masked_fill(a.abs() <= self.threshold.to(a.device, a.dtype), 0)

    def feed(self, x: Tensor, weights: Weights, step: Step | None = None) -> Tensor:
        """The block of x (B, D): by the plan, or by `step`."""
        step = step or next(s for s in self.plan if len(x) <= s.batch)
        a = self.activated(_product(weights.gate or weights.up, x, step.own)).contiguous()
        # a sum of finite terms that overflowed, or a NaN, times 0 is NaN: then nothing is skipped
        if step.most and row_skip.largest(x) <= weights.limit:
            listed = row_skip.active(a)
            if len(listed) <= step.most:
                self.taken["skipping"] += 1
                return self.skipping(x, a, listed, weights)
        self.taken["dense"] += 1
        return self._dense(x, a, weights, step.own)

    def skipping(self, x: Tensor, a: Tensor, listed: Tensor, weights: Weights) -> Tensor:
        if self.block.form == "plain":
            h = a.index_select(1, listed)
        elif self.block.form == "gated":
            h = row_skip.rows(weights.up, listed, x, a)
        else:
            # act(up) has zeros of its own
            h = self.block.act(row_skip.rows(weights.up, listed, x)) * a.index_select(1, listed)
            kept = row_skip.active(h)
            listed, h = listed.index_select(0, kept), h.index_select(1, kept)
        return row_skip.add_rows(weights.down, listed, h)

    def _dense(self, x: Tensor, a: Tensor, weights: Weights, own: bool) -> Tensor:
        if self.block.form == "plain":
            h = a
        elif self.block.form == "gated" and own:
            h = row_skip.rows(weights.up, None, x, a)
        else:
            up = _product(weights.up, x, own)
            h = a * (self.block.act(up) if self.block.form == "both" else up)
        return row_skip.add_rows(weights.down, None, h) if own else F.linear(h, *weights.down)

    def _plain(self, x: Tensor) -> bool:
        """Whether this is an ordinary call of an ordinary tensor, and nobody looks inside."""
        block = self.block
        weight = block.down.weight
        return not (
            type(x) is not Tensor
            or block.module.training
            or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            or torch.is_autocast_enabled(x.device.type)
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack() > 0
            or any(m._forward_hooks or m._forward_pre_hooks for m in (*block.inner, block.down))
            or (isinstance(block.act, nn.Module) and block.act._forward_hooks)
        )

    def weights(self, x: Tensor) -> Weights | None:
        """The matrices if the kernels can take them with x."""
        known = x.dtype in row_skip.DTYPES and x.device.type == "cpu"
        if not known or any(t.dtype != x.dtype or t.device != x.device for t in self._tensors()):
            self._kept = None
            return None
        found = self.known()
        return found if x.shape[-1] == found.up.weight.shape[1] else None

    def known(self) -> Weights:
        """The matrices, looked at again where a parameter moved or changed."""
        tensors = self._tensors()
        key = _key(tensors)
        if self._kept is None or self._kept.key != key:
            self._kept = self._look(key, tensors)
        return self._kept

    def _tensors(self) -> list[Tensor]:
        maps: tuple[Any, ...] = (*self.block.inner, self.block.down)
        return [t for m in maps for t in (m.weight, getattr(m, "bias", None)) if t is not None]

    def _look(self, key: tuple[Any, ...], tensors: list[Tensor]) -> Weights:
        if not laid(self.block):
            lay(self.block)
            key = _key(tensors)
        gate, up, down = (
            m and Matrix(m.weight.detach(), None if m.bias is None else m.bias.detach())
            for m in self.block.matrices()
        )
        assert up is not None and down is not None
        return Weights(key, gate, up, down, _limit(self.block.form, up, down))


def _key(tensors: list[Tensor]) -> tuple[Any, ...]:
    """Changes where a parameter is replaced, moved or written to, other than through `.data`."""
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def _product(matrix: Matrix, x: Tensor, own: bool) -> Tensor:
    return row_skip.rows(matrix, None, x) if own else F.linear(x, *matrix)


def _limit(form: str, up: Matrix, down: Matrix) -> float:
    """The largest |x| for which 0 times what a skipped row gives is 0; NaN where there is none.

    |up x + b| <= |x| max_i ||up_i||_1 + |b|. A plain block computes all its rows up.
    """
    if not math.isfinite(row_skip.norm(down.weight.t())):
        return math.nan
    if form == "plain":
        return math.inf
    top = torch.finfo(up.weight.dtype).max / 2
    # dReLU has act(up x) there; no activation grows faster than a square
    top = math.sqrt(top) if form == "both" else top
    most = 0.0 if up.bias is None else float(up.bias.abs().max())
    norm = row_skip.norm(up.weight)
    return (top - most) / norm if norm else math.inf


def _why_not(block: FeedForward) -> str:
    """Why a block is left as it is; empty where it is not."""
    maps = (*block.inner, block.down)
    weights = [m._parameters.get("weight") for m in maps]
    if any(type(w) is not nn.Parameter for w in weights) or any(_wrapped(m) for m in maps):
        return "has linear maps that are not plain ones with a parameter"
    dtypes = {p.dtype for m in maps for p in m.parameters()}
    if len(dtypes) > 1 or not dtypes <= set(row_skip.DTYPES):
        return "has weights of other types than float32 or bfloat16, or of several"
    if any(p.device.type != "cpu" for m in maps for p in m.parameters()):
        return "is not on the CPU"
    up = block.matrices()[1]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, up.weight.shape[1], generator=generator).to(up.weight)
    training = block.module.training
    with torch.no_grad():
        block.module.eval()
        expected, got = block.module(x), block.down(block.hidden(x))
        block.module.train(training)
    if not isinstance(expected, Tensor) or expected.shape != got.shape or got.dtype != x.dtype:
        return "gives something else than its map back"
    spread = 4 * torch.finfo(x.dtype).eps * expected.abs().max()
    if not bool((expected - got).abs().max() <= spread) and bool(expected.isfinite().all()):
        return "does something after its map back"
    return ""


def _wrapped(module: nn.Module) -> bool:
    standard = type(module).forward is nn.Linear.forward or type(module).__name__ == "Conv1D"
    return not standard or "forward" in vars(module)


def _thresholds(given: Any, blocks: list[FeedForward]) -> dict[str, Tensor]:
    """By block."""
    if given is None:
        return {}
    values = given if isinstance(given, Mapping) else given.values
    widths = {f"gate/{b.name}": (b.name, b.d_hidden) for b in blocks}
    for name, value in values.items():
        if name not in widths:
            raise DataError(
                f"thresholds of accelerate are compared with |act(gate)|, 'gate/BLOCK' for a block "
                f"of this model, got '{name}'; calibrate by the gate (CATS, CHESS)"
            )
        if value.shape != (widths[name][1],) or not bool((value >= 0).all()):
            raise DataError(
                f"thresholds '{name}' must be {widths[name][1]} numbers of at least 0, got the "
                f"shape {tuple(value.shape)} and a least one of {float(value.min())}"
            )
    return {widths[name][0]: value for name, value in values.items()}


def _fixed(skips: list[RowSkip], share: float) -> list[Plan]:
    if not 0 < share <= 1:
        raise Error(f"break_even must be a share above 0 and at most 1, got {share}")
    return [(Step(BATCHES[-1], True, int(share * s.block.d_hidden)),) for s in skips]


def _measured(skips: list[RowSkip]) -> list[Plan]:
    """A plan for each; blocks of one shape are measured in turn, as they run."""
    alike: dict[tuple[Any, ...], list[RowSkip]] = {}
    for skip in skips:
        _, up, down = skip.block.matrices()
        shape = (skip.block.form, *up.weight.shape, len(down.weight), str(up.weight.dtype))
        alike.setdefault(shape, []).append(skip)
    plans = {}
    for shape, group in alike.items():
        # what fits in the processor's caches all together runs at another speed
        weights = sum(p.numel() for s in group for p in s.block.module.parameters())
        identity = (*shape, weights.bit_length())
        for skip in group:
            skip.known()
        plans[shape] = plan(identity, shape[1], partial(_timed, group))
    return [plans[shape] for skip in skips for shape, group in alike.items() if skip in group]


def _timed(group: list[RowSkip], batch: int, n: int | None) -> Callable[[], object]:
    """One call of the next block: torch's dense path, ours (n = H), or skipping all but n."""
    turn = cycle(group)
    up = group[0].block.matrices()[1].weight
    width = len(up)
    x = torch.randn(batch, up.shape[1]).to(up)
    if n is None:
        return lambda: next(turn).original(x)
    if n == width:
        dense = Step(batch, True, 0)
        return lambda: (s := next(turn)).feed(x, s.known(), dense)
    a = torch.zeros(batch, width, dtype=x.dtype)
    a[:, torch.linspace(0, width - 1, n).round().long()] = 1

    def skipping() -> object:
        skip = next(turn)
        weights = skip.known()
        skip.activated(row_skip.rows(weights.gate or weights.up, None, x))
        row_skip.largest(x)
        return skip.skipping(x, a, row_skip.active(a), weights)

    return skipping
