"""What an activation is timed against: functions of x with the parameters autograd sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)
Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Entry:
    """Something to time. `computes` is False for a yardstick that is another function;
    `values` are the parameter values it really uses, None for those asked for."""

    name: str
    impl: str
    call: Function
    params: tuple[torch.Tensor, ...] = ()
    compiled: bool = False
    computes: bool = True
    values: Mapping[str, float] | None = None


def own(
    act: Any, impl: str, params: Mapping[str, float] | None, dtype: torch.dtype, device: str
) -> Entry:
    """The activation's module at its initial values, or its function at the given ones."""
    if params is None and hasattr(act, "module"):
        layer = act.module(impl=impl, device=device)
        return Entry(act.name, impl, layer, tuple(layer.parameters()))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    trainable = {k for k, p in act.spec.params.items() if p.trainable}
    tensors = {
        k: torch.tensor([v], dtype=wide, device=device, requires_grad=k in trainable)
        for k, v in {**act.spec.values(), **(params or {})}.items()
    }
    leaves = tuple(t for t in tensors.values() if t.requires_grad)
    return Entry(act.name, impl, lambda x: act(x, impl=impl, **tensors), leaves)


def compiled(entry: Entry) -> Entry:
    """The same under `torch.compile`."""
    return replace(entry, call=torch.compile(entry.call, dynamic=False), compiled=True)


BASELINES = ("silu", "reference", "compiled", "transformers", "transformers_compiled")


def baselines(
    act: Any,
    params: Mapping[str, float] | None,
    dtype: torch.dtype,
    device: str,
    names: Sequence[str] = BASELINES,
) -> dict[str, Entry]:
    """By name: `silu` (torch's own kernel, the yardstick), `reference` and `compiled` (the plain
    traceable formula, eager and under torch.compile), and for xIELU `transformers` and
    `transformers_compiled` where that library is installed."""
    found: dict[str, Entry] = {}
    reference = own(act, "reference", params, dtype, device)
    peer = _transformers(act, params, dtype, device) if set(names) & set(BASELINES[3:]) else None
    for name in names:
        match name:
            case "silu":
                found[name] = Entry("F.silu", "torch", F.silu, computes=False)
            case "reference":
                found[name] = reference
            case "compiled":
                found[name] = compiled(reference)
            case "transformers" if peer:
                found[name] = peer
            case "transformers_compiled" if peer:
                found[name] = compiled(peer)
    return found


def _transformers(
    act: Any, params: Mapping[str, float] | None, dtype: torch.dtype, device: str
) -> Entry | None:
    from integrand.certificate import transformers_xielu, xielu_values

    if act.name != "xielu":
        return None
    init = {k if k == "beta" else f"{k}_init": v for k, v in (params or {}).items()}
    try:
        module = transformers_xielu(dtype, **init).to(device)
    except ImportError:
        logger.info("transformers is not installed: its xIELU is not among the baselines")
        return None
    leaves = tuple(module.parameters())
    return Entry("XIELUActivation", "transformers", module, leaves, values=xielu_values(module))
