"""`Pointwise`: an activation as an `nn.Module` with its constrained trainable parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels import (
    IMPLEMENTATIONS,
    OutputOnly,
    apply,
    constants,
    register,
    unwatched,
)
from integrand.nn.constraints import constrained, raw_values
from integrand.nn.formula import Formula, trained
from integrand.nn.shards import Layout, distributed, local_parameters, on_one_mesh, on_shards
from integrand.nn.source import source
from integrand.spec import Spec, saved_buffers

_HALF = (torch.float16, torch.bfloat16)
_PLAIN = (Tensor, nn.Parameter)


class _Inference(NamedTuple):
    """Constrained values for as long as these raw parameters hold these numbers."""

    raw: list[Tensor]
    numbers: list[float]
    values: dict[str, Tensor]
    ordered: list[Tensor]
    constants: Any


class Pointwise(nn.Module):
    """y = f(x; parameters), elementwise on tensors of any shape.

    Trainable parameters are stored raw (unconstrained), in fp32 whatever the model's type, with
    shape `(1,)`, `(C,)` or per expert; constants are buffers. Usually made by `Activation.module`.

    Args:
        spec, program: the declaration and what was derived from it.
        formula: text of f for the repr.
        dtype: type of raw parameters and constants; None keeps them fp32 through `.half()` and
            `.bfloat16()`.
        shape: `(1,)`; `(C,)` for one value per channel of the last dim; any other shape that
            broadcasts against x without enlarging it, such as `(E, 1, 1)` for one value per expert
            and x of (E, T, C).
        impl: "auto", "reference", "c" or "triton".
        output_only: the backward that keeps f(x) instead of x, if it is to be used.
    """

    is_integrand_activation = True

    def __init__(
        self,
        spec: Spec,
        program: Program,
        formula: str = "",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
        output_only: OutputOnly | None = None,
    ):
        super().__init__()
        if impl not in IMPLEMENTATIONS:
            raise BackendError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got '{impl}'")
        if not shape or min(shape) < 1:
            raise ValueError(
                f"shape must be (1,), (C,) or one per expert like (E, 1, 1), got {tuple(shape)}"
            )
        self.spec, self.program, self.impl = spec, program, impl
        self.output_only = output_only
        self.layout: Layout | None = None
        self._formula = formula
        register(program)
        self._keep_fp32 = dtype is None
        self._inference: _Inference | None = None
        options: dict[str, Any] = {"dtype": dtype or torch.float32, "device": device}
        for name, value in _declared(spec).items():
            if name in spec.params and spec.params[name].trainable:
                raw = torch.full(tuple(shape), value, **options)
                self.register_parameter(name, nn.Parameter(raw))
            else:
                self.register_buffer(name, torch.tensor(value, **options))

    def reset_parameters(self, names: Iterable[str] | None = None) -> None:
        """Write the declared values into the raw parameters and constants, or into those named.

        A module made on `meta` needs it after `to_empty`, as torch's own layers do.
        """
        declared = _declared(self.spec)
        with torch.no_grad():
            for name in declared if names is None else names:
                getattr(self, name).fill_(declared[name])

    def values(self) -> dict[str, Tensor]:
        """The constrained parameter values by name; differentiable in the raw parameters."""
        if torch.is_grad_enabled() or not unwatched():
            return self._constrained()
        cached = self._cached()
        return self._constrained() if cached is None else cached.values

    def source(self, target: str, dtype: torch.dtype = torch.float32) -> str:
        """Text of one file that computes this function, its current values folded in.

        `target` is "torch", "c", "triton" or "jax"; `dtype` what C and Triton store. SpecError
        where a parameter has more than one value.
        """
        with torch.no_grad():
            values = self.values()
            return source(self.spec, self.program, self._formula, target, dtype, values, True)

    def forward(self, x: Tensor) -> Tensor:
        if distributed(x):
            return self.with_values(self._run, x)
        if unwatched() and not torch.is_grad_enabled() and x.is_cpu:
            cached = self._cached()
            if cached is not None:
                return apply(self.program, x, cached.ordered, self.impl, cached.constants)
        return self.with_values(self._run, x)

    def with_values(self, function: Callable[..., Any], *xs: Tensor) -> Any:
        """function(values in the program's order, *xs), elementwise in xs of one shape.

        DTensors, and plain shards of the declared `layout`, are computed on this rank's part, with
        parameter gradients summed over the ranks that share the parameter.

        Raises:
            BackendError: the parameters are DTensors and x says nothing about where it lies.
        """
        if any(map(distributed, xs)):
            return on_shards(
                lambda layout, *parts: function(self._local(layout, parts[0].ndim), *parts), *xs
            )
        if self.layout is None:
            return function(self._plain(), *xs)
        return function(self._local(self.layout, xs[0].ndim), *xs)

    def _run(self, values: list[Tensor], x: Tensor) -> Tensor:
        if self.output_only is not None:
            return self.output_only.apply(x, values, self.impl)
        return apply(self.program, x, values, self.impl)

    def _ordered(self, values: dict[str, Tensor]) -> list[Tensor]:
        return [values[name] for name in self.program.params]

    def _raw(self) -> dict[str, Tensor]:
        tensors = {name: getattr(self, name) for name in self.spec.params}
        # values in fp32: one rounded to bf16 is off by up to 2^-9, and so is f
        return {n: t.float() if t.dtype in _HALF else t for n, t in tensors.items()}

    def _constrained(self) -> dict[str, Tensor]:
        raw = self._raw()
        return constrained(self.spec.params, on_one_mesh(raw)) if raw else {}

    def _local(self, layout: Layout, ndim: int) -> list[Tensor]:
        raw = local_parameters(self._raw(), layout, ndim)
        return self._ordered(constrained(self.spec.params, raw)) if raw else []

    def _plain(self) -> list[Tensor]:
        if not torch.is_grad_enabled() and unwatched() and (cached := self._cached()) is not None:
            return cached.ordered
        values = self._constrained()
        if sharded := [name for name, value in values.items() if distributed(value)]:
            raise BackendError(
                f"'{self.spec.name}' has '{sharded[0]}' as a DTensor and got a plain x: under FSDP2"
                " shard with ig.nn.shard, under tensor parallelism plan ig.nn.ActivationParallel()"
            )
        return self._ordered(values)

    def _cached(self) -> _Inference | None:
        """The values without autograd, computed again when a number has changed; else None."""
        parameters, buffers = self._parameters, self._buffers
        raw: list[Any] = [
            parameters[n] if n in parameters else buffers[n] for n in self.spec.params
        ]
        old = self._inference
        # compared by number: a fused optimiser step does not raise a tensor's version
        if (
            old is not None
            and all(map(operator.is_, raw, old.raw))
            and [t.item() for t in raw] == old.numbers
        ):
            return old
        if any(t is None or t.numel() != 1 or not t.is_cpu or type(t) not in _PLAIN for t in raw):
            return None
        values = self._constrained()
        ordered = self._ordered(values)
        numbers = [t.item() for t in raw]
        self._inference = _Inference(raw, numbers, values, ordered, constants(ordered))
        return self._inference

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *rest: Any) -> None:  # pyrefly: ignore[bad-override]
        # assign=True would make a checkpoint's bf16 tensors the raw parameters
        if self._keep_fp32:
            state_dict = {
                k: v.float() if isinstance(v, Tensor) and v.dtype in _HALF else v
                for k, v in state_dict.items()
            }
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Pointwise:
        # bf16 raw parameters stop moving: 166 + 0.4 rounds to 166
        def keep(t: Tensor) -> Tensor:
            moved = fn(t)
            halved = moved.dtype in _HALF and t.dtype not in _HALF
            return t.to(moved.device) if self._keep_fp32 and halved else moved

        self._inference = None
        return super()._apply(keep, recurse)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(self.program)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_inference": None}

    def formula(self, channel: int | None = None) -> Formula:
        """The trained function as text and as a spec in TOML.

        `ig.derive(layer.formula().spec)(x)` is bit for bit `layer(x)`; a module made of it stores
        raw parameters again, whose values differ by at most 1e-6 relative. All ranks must call it
        where parameters are sharded.

        Args:
            channel: which parameters, where there is more than one set: the channel of shape
                (C,), the expert of (E, 1, 1).

        Raises:
            SpecError: several sets of parameters and no channel, or no such channel.
        """
        with torch.no_grad():
            return trained(self.spec, self._formula, self.values(), channel)

    def extra_repr(self) -> str:
        values = ", ".join(f"{k}={_short(v)}" for k, v in self.values().items())
        return f"{self.spec.name}: f(x) = {self._formula}" + (f"; {values}" if values else "")


def _declared(spec: Spec) -> dict[str, float]:
    """Raw parameters, constants and further saved buffers of a spec, by name."""
    constants = {name: float(p.init) for name, p in spec.params.items() if not p.trainable}
    return {**raw_values(spec.params, spec.values()), **constants, **saved_buffers(spec)}


def _short(value: Tensor) -> str:
    if distributed(value):
        # the others' shards would take a collective, which printing on one rank waits for forever
        if not all(p.is_replicate() for p in value.placements):
            return "sharded"
        value = value.to_local()
    if value.is_meta:
        return "meta"
    value = value.detach().float()
    if value.numel() == 1:
        return f"{value.item():.4g}"
    return f"{value.min().item():.4g}..{value.max().item():.4g}"
