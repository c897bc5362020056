"""A watch over the parameters of activations while they train.

Activation parameters carry no weight decay unless asked, and nothing in the loss bounds them. The
published Apertus-8B (arXiv:2509.14233) ended with alpha_p = 166 and alpha_n = 41.25 in its first
layer, from 0.8: there fp16 overflows at x = 19.9, and in bf16 a raw parameter of 166 no longer
moves by less than 0.5.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from integrand.nn.groups import NONE, activation_modules
from integrand.nn.shards import distributed

_HALF = (torch.float16, torch.bfloat16)
_log = logging.getLogger("integrand")


class Growth(NamedTuple):
    """One parameter of one activation; of several channels or experts the value largest in size.

    Attributes:
        module, parameter: names; value: now; initial: as declared; start: when the monitor was
            made; limit: of the size.
    """

    module: str
    parameter: str
    value: float
    initial: float
    start: float
    limit: float

    @property
    def name(self) -> str:
        return f"{self.module}.{self.parameter}" if self.module else self.parameter

    @property
    def exceeded(self) -> bool:
        return not abs(self.value) <= self.limit


def _declared(activation: Any) -> Mapping[str, Any]:
    """The declared parameters; of another way to write a declared activation, that one's."""
    return (getattr(activation, "spec", None) or activation.declared.spec).params


class GrowthMonitor:
    """Warns through `logging`, once per parameter, when it has grown past its limit.

        monitor = ig.nn.GrowthMonitor(model)         # after the weights are loaded
        ...
        rows = monitor.check(step)                   # every hundred steps, say

    The limit is `factor` times the size of the declared initial value, or of 1 where that is
    smaller: 10 for xIELU's 0.8. A raw parameter in bf16 or fp16 is warned of as well: changes below
    half its spacing are lost. `check` makes one transfer from the device; where parameters are
    sharded it takes collectives, so that every rank must call it.

    Args:
        model: any module that holds integrand activations; also wrapped, sharded or parallel.
        factor: growth that is still in order.
        limits: limits by parameter name instead, such as `{"alpha_p": 40.0}`.
    """

    def __init__(
        self, model: nn.Module, *, factor: float = 10.0, limits: Mapping[str, float] | None = None
    ) -> None:
        self.model, self.factor, self.limits = model, factor, dict(limits or {})
        if not activation_modules(model):
            _log.warning(NONE)
        self._warned: set[str] = set()
        self._start = {row.name: row.value for row in self._rows({})}

    def __repr__(self) -> str:
        # no values: where parameters are sharded they take collectives
        limits = f", limits={self.limits}" if self.limits else ""
        watched = f"{len(self._start)} parameters, {len(self._warned)} warned of"
        return f"GrowthMonitor({watched}, factor={self.factor:g}{limits})"

    def check(self, step: int | None = None, level: int = logging.WARNING) -> list[Growth]:
        """The trainable parameters in order of depth, after warnings about new cases."""
        rows = self._rows(self._start)
        when = "" if step is None else f" at step {step}"
        for row in rows:
            if row.exceeded:
                self._warn(
                    row.name,
                    f"{row.name} is {row.value:.4g}{when}, past its limit of {row.limit:.4g}"
                    f" (declared {row.initial:.4g}, {row.start:.4g} at the start); a lower rate or"
                    " a decay for activations slows it: ig.nn.parameter_groups",
                    level,
                )
        for name, raw in _raw(self.model):
            if raw.dtype in _HALF:
                self._warn(
                    f"{name} {raw.dtype}",
                    f"{name} is stored in {raw.dtype}: changes below {_lost(raw):.2g} are lost"
                    f"{when}; keep raw parameters in fp32",
                    level,
                )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the values at the start, and what was warned of."""
        return {"start": dict(self._start), "warned": sorted(self._warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._start = {**self._start, **state["start"]}
        self._warned = set(state["warned"])

    def _warn(self, key: str, text: str, level: int) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _log.log(level, text)

    def _rows(self, start: Mapping[str, float]) -> list[Growth]:
        found: list[tuple[str, str, float]] = []
        values: list[Tensor] = []
        with torch.no_grad():
            for module, activation in activation_modules(self.model).items():
                for name, value in activation.values().items():
                    if (declared := _declared(activation)[name]).trainable:
                        found.append((module, name, float(declared.init)))
                        values.append(_largest(value))
        if not values:
            return []
        now = torch.stack([v.to(values[0].device) for v in values]).tolist()
        return [self._row(*named, value, start) for named, value in zip(found, now, strict=True)]

    def _row(
        self, module: str, name: str, initial: float, value: float, start: Mapping[str, float]
    ) -> Growth:
        limit = self.limits.get(name, self.factor * max(1.0, abs(initial)))
        row = Growth(module, name, value, initial, value, limit)
        return row._replace(start=start.get(row.name, value))


def _largest(value: Tensor) -> Tensor:
    whole = value.full_tensor() if distributed(value) else value
    flat = whole.double().reshape(-1)
    return flat[flat.abs().argmax()]


def _raw(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for module, activation in activation_modules(model).items():
        yield from activation.named_parameters(prefix=module, recurse=False)


def _lost(raw: Tensor) -> float:
    """The largest change that rounding can undo in the largest element: half its spacing."""
    size = abs(_largest(raw.detach()).item())
    exponent = math.floor(math.log2(size)) if 0 < size < math.inf else 0
    return torch.finfo(raw.dtype).eps * 2.0**exponent / 2
