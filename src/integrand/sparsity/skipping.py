"""The forward function that an accelerated block has instead of its own.

Dimensions: B tokens, D d_model, H d_hidden, n active neurons.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from integrand.errors import Error
from integrand.kernels.ops import kernel
from integrand.nn.pointwise import Pointwise
from integrand.sparsity import row_skip, triton_skip
from integrand.sparsity.block_weights import Weights, is_plain, is_untouched, key, look, tensors
from integrand.sparsity.break_even import Plan, Step
from integrand.sparsity.feed_forward import FeedForward, Matrix
from integrand.sparsity.layout import Strides, lay, restore


class RowSkip:
    """The forward function of one block. An object, so that a copied model calls its own copy."""

    def __init__(self, block: FeedForward, threshold: Tensor | None, impl: str) -> None:
        self.block, self.threshold, self.impl = block, threshold, impl
        self.plan: Plan = ()
        self.taken = {"skipping": 0, "dense": 0, "original": 0}
        self.strides: Strides = ()
        self._maps = (*block.inner, block.down)
        self._moded = tuple(m for _, m in block.beside())
        self._watched = tuple((m, type(m), type(m).forward) for m in block.module.modules())
        self._parts = _parts(block)
        self._kept: Weights | None = None
        self._kernel: tuple[torch.dtype, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # views of the weights: a copy looks at its own
        return {**vars(self), "_kept": None, "_kernel": None}

    def __repr__(self) -> str:
        most = self.plan[0].most
        how = (
            f"skips at batch 1 up to {most} active"
            if most
            else "skips nothing, its dense product is faster"
        )
        return f"{self.block.form}, {self.block.d_hidden} neurons; {how}"

    def lay(self) -> None:
        """Lay the weights anew, once; `remove` gives them their strides back."""
        self.strides = self.strides or lay(self.block)

    def remove(self) -> None:
        if vars(self.block.module).get("forward") is self:
            del self.block.module.forward
        restore(self.strides)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        # neither can follow a kernel that is given addresses
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.original(x, *args, **kwargs)
        weights = None if args or kwargs or not self.plain(x) else self.weights(x)
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
            if name := self._replaced():
                raise Error(
                    f"thresholds must be those of the block as it is, got another '{name}' in "
                    f"'{self.block.name}'; call undo(model), and calibrate them anew"
                )
            a, *up = self.block.inner_values(x)
            a = self._reaching(self.block.act(a))
            if up:
                a = a * (self.block.act(up[0]) if self.block.form == "both" else up[0])
            return self.block.down(a)
        return type(self.block.module).forward(self.block.module, x, *args, **kwargs)

    def activated(self, first: Tensor) -> Tensor:
        """act, without what is at most its threshold."""
        return self._reaching(self._act(first))

    def _reaching(self, a: Tensor) -> Tensor:
        """a without what is at most its threshold; NaN is not."""
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

    def plain(self, x: Tensor) -> bool:
        """Whether this is an ordinary call of an ordinary tensor, and nobody looks inside."""
        module = self.block.module
        if (
            type(x) is not Tensor
            or torch.is_autocast_enabled(x.device.type)
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack() > 0
            or any(m.training for m in self._moded)
        ):
            return False
        # hooks on the block itself run around this
        if not all(is_untouched(m) for m, _, _ in self._watched if m is not module):
            return False
        if self._replaced() is not None or not all(map(is_plain, self._maps)):
            return False
        if not torch.is_grad_enabled():
            return True
        return not (x.requires_grad or any(p.requires_grad for p in module.parameters()))

    def _replaced(self) -> str | None:
        """The name of a part, or of a class, that is no longer the one looked at."""
        for module, name, part in self._parts:
            if module._modules.get(name, module.__dict__.get(name)) is not part:
                return name
        for module, kind, forward in self._watched:
            if type(module) is not kind or kind.forward is not forward:
                return type(module).__name__
        return None

    def weights(self, x: Tensor) -> Weights | None:
        """The matrices if the kernels can take them with x."""
        kept = self.known()
        weight = kept.up.weight
        fits = x.dtype is kept.dtype and x.device == weight.device
        return kept if fits and x.shape[-1] == weight.shape[1] else None

    def known(self) -> Weights:
        """The matrices, looked at again where a parameter moved or changed."""
        found = tensors(self._maps)
        if self._kept is None or self._kept.key != key(found):
            self._kept = look(self.block, found, self.impl)
        return self._kept


def _parts(block: FeedForward) -> tuple[tuple[nn.Module, str, Any], ...]:
    """(holder, name, part) of all modules inside, and of an activation that is a function."""
    found = [(m, name, part) for m in block.module.modules() for name, part in m._modules.items()]
    own = [(block.module, name, v) for name, v in vars(block.module).items() if v is block.act]
    return (*found, *own)


def _product(matrix: Matrix, x: Tensor, own: bool) -> Tensor:
    return row_skip.rows(matrix, None, x) if own else F.linear(x, *matrix)
