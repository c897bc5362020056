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
from integrand.kernels.c_build import compiler
from integrand.kernels.ops import kernel
from integrand.kernels.triton import available
from integrand.nn.pointwise import Pointwise
from integrand.sparsity import row_skip, triton_skip
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
    impl: str = "auto",
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
        impl: "c", "triton" (a GPU: one token at a time, always skipping), or "auto" for the one
            that fits where the model is.

    Raises:
        Error: no feed-forward block is understood, or one has been accelerated already.
        DataError: thresholds for no block, of another shape, or compared with something else.
        BackendError: no C compiler.
    """
    blocks = feed_forwards(model)
    limits = _thresholds(thresholds, blocks)
    handle = Accelerated({}, {})
    skips = []
    if impl not in ("auto", "c", "triton"):
        raise Error(f'impl must be "auto", "c" or "triton", got {impl!r}')
    if impl == "auto":
        impl = "triton" if next(model.parameters()).is_cuda else "c"
    if impl == "c":
        compiler()
    for block in blocks:
        if isinstance(vars(block.module).get("forward"), RowSkip):
            raise Error(f"block '{block.name}' is accelerated already; call undo() first")
        if reason := _why_not(block, impl):
            handle.left[block.name] = reason
        else:
            skips.append(RowSkip(block, limits.get(block.name), impl))
    with torch.no_grad():
        if impl == "triton":
            plans = [(Step(1, False, s.block.d_hidden),) for s in skips]
        else:
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
    dtype: torch.dtype | None  # None where the kernels cannot take them


class RowSkip:
    """The forward function of one block. An object, so that a copied model calls its own copy."""

    def __init__(self, block: FeedForward, threshold: Tensor | None, impl: str) -> None:
        self.block, self.threshold, self.impl = block, threshold, impl
        self.plan: Plan = ()
        self.taken = {"skipping": 0, "dense": 0, "original": 0}
        self.strides: Strides = lay(block)
        self._maps = (*block.inner, block.down)
        acts = [block.act] if isinstance(block.act, nn.Module) else []
        self._watched = (*self._maps, *acts)
        self._kept: Weights | None = None
        self._kernel: tuple[torch.dtype, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # views of the weights: a copy looks at its own
        return {**vars(self), "_kept": None, "_kernel": None}

    def remove(self) -> None:
        del self.block.module.forward
        restore(self.strides)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.original(x, *args, **kwargs)
        weights = None if args or kwargs or not self._plain(x) else self.weights(x)
        most = self.plan[-1]
        if weights is None or x.numel() == 0:
            return self._counted(x, *args, **kwargs)
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        if len(flat) <= most.batch:
            y = self.feed(flat, weights)
        elif most.own:
            y = torch.cat([self.feed(part, weights) for part in flat.split(most.batch)])
        else:
            return self._counted(x)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _counted(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.taken["original"] += 1
        return self.original(x, *args, **kwargs)

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
        a = self._act(first)
        if self.threshold is None:
            return a
        # in fp32: a threshold is not rounded to the type of a
        return a.masked_fill(a.abs() <= self.threshold.to(a.device), 0)

    def _act(self, first: Tensor) -> Tensor:
        """act; one of integrand's that has no parameters straight by its kernel."""
        act = self.block.act
        if type(act) is not Pointwise or torch.is_grad_enabled() or first.device.type != "cpu":
            return act(first)
        if self._kernel is None or self._kernel[0] is not first.dtype:
            able = act.impl in ("auto", "c") and not act.program.params and self.impl == "c"
            # loaded once in a process, whatever the number of blocks
            self._kernel = (first.dtype, kernel(act.program.digest, first.dtype) if able else None)
        direct = self._kernel[1]
        return act(first) if direct is None else direct.forward(first, ())

    def feed(self, x: Tensor, weights: Weights, step: Step | None = None) -> Tensor:
        """The block of x (B, D): by the plan, or by `step`."""
        step = step or next(s for s in self.plan if len(x) <= s.batch)
        a = self.activated(_product(weights.gate or weights.up, x, step.own)).contiguous()
        if self.impl == "triton":
            self.taken["skipping"] += 1
            return self._on_gpu(x, a, weights)
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

    def _on_gpu(self, x: Tensor, a: Tensor, weights: Weights) -> Tensor:
        safe, form = triton_skip.sound(x, weights.limit), self.block.form
        if form != "plain":
            h = triton_skip.up_rows(weights.up, x, a, safe, form == "gated")
            # act(0) need not be 0, times a it is
            a = a * self.block.act(h) if form == "both" else h
        return triton_skip.down_rows(weights.down, a, safe)

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
        module = self.block.module
        if (
            type(x) is not Tensor
            or module.training
            or torch.is_autocast_enabled(x.device.type)
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack() > 0
        ):
            return False
        if any(m._forward_hooks or m._forward_pre_hooks for m in self._watched):
            return False
        if not torch.is_grad_enabled():
            return True
        return not (x.requires_grad or any(p.requires_grad for p in module.parameters()))

    def weights(self, x: Tensor) -> Weights | None:
        """The matrices if the kernels can take them with x."""
        kept = self.known()
        weight = kept.up.weight
        fits = x.dtype is kept.dtype and x.device == weight.device
        return kept if fits and x.shape[-1] == weight.shape[1] else None

    def _fits(self, dtype: torch.dtype, device: torch.device) -> bool:
        if self.impl == "triton":
            return dtype in triton_skip.DTYPES and available(device) is None
        return dtype in row_skip.DTYPES and device.type == "cpu"

    def known(self) -> Weights:
        """The matrices, looked at again where a parameter moved or changed."""
        tensors = self._tensors()
        key = _key(tensors)
        if self._kept is None or self._kept.key != key:
            self._kept = self._look(key, tensors)
        return self._kept

    def _tensors(self) -> list[Tensor]:
        # past Module.__getattr__: this is asked at every call
        held = [m._parameters for m in self._maps]
        return [t for h in held for t in (h["weight"], h.get("bias")) if t is not None]

    def _look(self, key: tuple[Any, ...], tensors: list[Tensor]) -> Weights:
        if not laid(self.block):
            lay(self.block)
            key = _key(tensors)
        gate, up, down = (
            m and Matrix(m.weight.detach(), None if m.bias is None else m.bias.detach())
            for m in self.block.matrices()
        )
        assert up is not None and down is not None
        kinds = {(t.dtype, t.device) for t in tensors}
        dtype, device = kinds.pop()
        if kinds or not self._fits(dtype, device):
            return Weights(key, None, up, down, math.nan, None)
        return Weights(key, gate, up, down, _limit(self.block.form, up, down, self.impl), dtype)


def _key(tensors: list[Tensor]) -> tuple[Any, ...]:
    """Changes where a parameter is replaced, moved or written to, other than through `.data`."""
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def _product(matrix: Matrix, x: Tensor, own: bool) -> Tensor:
    return row_skip.rows(matrix, None, x) if own else F.linear(x, *matrix)


def _limit(form: str, up: Matrix, down: Matrix, impl: str) -> float:
    """The largest |x| for which 0 times what a skipped row gives is 0; NaN where there is none.

    |up x + b| <= |x| max_i ||up_i||_1 + |b|. A plain block computes all its rows up.
    """
    norm = row_skip.norm if impl == "c" else _norm
    if not math.isfinite(norm(down.weight.t())):
        return math.nan
    if form == "plain":
        return math.inf
    top = torch.finfo(up.weight.dtype).max / 2
    # dReLU has act(up x) there; no activation grows faster than a square
    top = math.sqrt(top) if form == "both" else top
    most = 0.0 if up.bias is None else float(up.bias.abs().max())
    largest = norm(up.weight)
    return (top - most) / largest if largest else math.inf


def _norm(weight: Tensor) -> float:
    return float(torch.linalg.vector_norm(weight, 1, dim=1, dtype=torch.float32).max())


def _why_not(block: FeedForward, impl: str) -> str:
    """Why a block is left as it is; empty where it is not."""
    maps = (*block.inner, block.down)
    weights = [m._parameters.get("weight") for m in maps]
    if any(type(w) is not nn.Parameter for w in weights) or any(_wrapped(m) for m in maps):
        return "has linear maps that are not plain ones with a parameter"
    if "forward" in vars(block.module):
        return "has a forward function that replaces its own"
    dtypes = {p.dtype for m in maps for p in m.parameters()}
    known = row_skip.DTYPES if impl == "c" else triton_skip.DTYPES
    if len(dtypes) > 1 or not dtypes <= set(known):
        names = ", ".join(str(d).removeprefix("torch.") for d in known)
        return f"must have weights of one type of {names}"
    devices = {p.device for m in maps for p in m.parameters()}
    reasons = {available(d) if impl == "triton" else _not_cpu(d) for d in devices}
    if len(devices) > 1 or reasons != {None}:
        return next(filter(None, reasons), "is spread over devices")
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


def _not_cpu(device: torch.device) -> str | None:
    return None if device.type == "cpu" else f'impl="c" runs on the CPU, the block is on {device}'


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
    dense = Step(batch, True, 0)
    a = torch.zeros(batch, width, dtype=x.dtype)
    a[:, torch.linspace(0, width - 1, n).round().long()] = 1

    def ours() -> object:
        skip = next(turn)
        # small blocks feel what is asked at every call
        skip._plain(x)
        weights = skip.weights(x)
        assert weights is not None
        if n == width:
            return skip.feed(x, weights, dense)
        skip.activated(row_skip.rows(weights.gate or weights.up, None, x))
        row_skip.largest(x)
        return skip.skipping(x, a, row_skip.active(a), weights)

    return ours
