"""Feed-forward blocks that skip the neurons an activation switches off, exactly.

h_i == 0 makes row i of the map back worth nothing, and act(gate_i) == 0 that of the map up too: at
batch 1, where a block takes as long as its weights take to read, they are not read.

Dimensions: H d_hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import Error
from integrand.kernels.c_build import compiler
from integrand.sparsity.break_even import Step
from integrand.sparsity.feed_forward import understood, warn_of
from integrand.sparsity.layout import restore
from integrand.sparsity.plans import fixed, measured
from integrand.sparsity.skipping import RowSkip
from integrand.sparsity.vetting import thresholds_of, why_not

log = logging.getLogger("integrand")


@dataclass(eq=False, repr=False)
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

    def __repr__(self) -> str:
        calls = ", ".join(f"{count} {path}" for path, count in self.calls().items())
        lines = [f"{len(self.blocks)} blocks accelerated; calls: {calls}"]
        lines += [f"{name}: {block}" for name, block in self.blocks.items()]
        lines += [f"left {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def accelerate(
    model: nn.Module,
    thresholds: Mapping[str, Tensor] | Any = None,
    *,
    break_even: float | None = None,
    measure_anew: bool = False,
    impl: str = "auto",
) -> Accelerated:
    """Make `model` skip inactive neurons while it decodes; the handle's `undo` ends it.

    Without thresholds the result is the dense one but for the order of its sums. Where skipping
    does not pay (too many active neurons, a large batch: measured once, `break_even.py`) a dense
    product is computed; with gradients, in training mode, under autocast, torch.compile,
    torch.jit.trace or hooks inside a block, and for other dtypes than fp32 and bf16, the model's
    own code runs; training mode is warned of. A block is left if it holds hooks, parameters or
    buffers beside its maps and its activation, and one of form `both` if its activation is not
    known to be too slow to overflow. A block one of whose parts is replaced, wrapped, patched or
    parametrised afterwards runs its own code.

    Weights are laid anew, in place: same parameters, names, shapes and values, other strides; a
    matrix that moves leaves shared memory and the flat buffer it was a view of, for good.

    Three things cannot be seen: a plain attribute that the block's forward function reads and that
    changes later (`self.scale = 3`: call `undo` first); a NaN, an infinity or an overflow written
    through `.data`, or into weights made in inference mode, to neurons that are skipped; and with
    thresholds, which replace the block's code, its dropout.

    Args:
        thresholds: {"gate/BLOCK": (H,)} or `Thresholds` of this model: neurons with |act(gate)| at
            most that are left out, on every path; "hidden/BLOCK", |h|, too where a block is plain.
        break_even: skip up to this share of active neurons, whatever the batch, unmeasured.
        measure_anew: measure where skipping pays although the cache has it, and keep that.
        impl: "c", "triton" (a GPU: one token at a time, always skipping), or "auto" for the one
            that fits where the model is.

    Raises:
        Error: no feed-forward block is understood, or one has been accelerated already.
        DataError: thresholds of another model, for no block or one that must be left, of another
            shape, or compared with something else.
        BackendError: no C compiler.
    """
    if impl not in ("auto", "c", "triton"):
        raise Error(f'impl must be "auto", "c" or "triton", got {impl!r}')
    if break_even is not None and not 0 < break_even <= 1:
        raise Error(f"break_even must be a share above 0 and at most 1, got {break_even}")
    blocks, unknown = understood(model)
    if impl == "auto":
        impl = "triton" if blocks[0].matrices()[1].weight.is_cuda else "c"
    for block in blocks:
        if isinstance(vars(block.module).get("forward"), RowSkip):
            raise Error(f"block '{block.name}' is accelerated already; call undo(model) first")
    if impl == "c":
        compiler()
    # nothing is changed before everything is checked
    left = {b.name: reason for b in blocks if (reason := why_not(b, impl))}
    limits = thresholds_of(thresholds, model, blocks, left)
    skips = [RowSkip(b, limits.get(b.name), impl) for b in blocks if b.name not in left]
    with torch.no_grad():
        if impl == "triton":
            plans = [((Step(1, False, s.block.d_hidden),), True) for s in skips]
        elif break_even is None:
            plans = measured(skips, measure_anew)
        else:
            plans = fixed(skips, break_even)
    warn_of(unknown)
    handle = Accelerated({}, left | unknown)
    for skip, (steps, gains) in zip(skips, plans, strict=True):
        name = skip.block.name
        if gains or skip.threshold is not None:
            skip.lay()
            skip.plan = steps
            skip.taken = dict.fromkeys(skip.taken, 0)  # not those of the measurement
            skip.block.module.forward = skip
            handle.blocks[name] = skip
        else:
            restore(skip.strides)
            handle.left[name] = "gains nothing: its own code is as fast at batch 1"
    if any(block.block.module.training for block in handle.blocks.values()):
        log.warning(
            "the model is in training mode, where its own code runs, with its dropout: nothing is "
            "skipped before model.eval()"
        )
    return handle


def undo(model: nn.Module) -> None:
    """End what `accelerate` did to a model or to the one it is a copy of, which has no handle."""
    for module in model.modules():
        if isinstance(skip := vars(module).get("forward"), RowSkip):
            skip.remove()
