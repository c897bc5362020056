"""One block run alone on random numbers: in which order its linear maps and its activation ran."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from integrand.models.swap_blocks import CONTAINERS, Block, linear_maps
from integrand.models.swap_calls import times_loaded
from integrand.models.swap_edits import Edit
from integrand.models.swap_probe import same_function
from integrand.models.swap_run import evaluating


@dataclass
class Trace:
    """What ran, in order: (map or activation, its input, its output)."""

    calls: list[tuple[str, Tensor, Any]] = field(default_factory=list)

    def note(self, name: str, x: Any, y: Any) -> None:
        self.calls.append((name, x if isinstance(x, Tensor) else torch.empty(0), y))


class _Listener(nn.Module):
    def __init__(self, old: Any, trace: Trace) -> None:
        super().__init__()
        # an activation under torch.compile would be compiled for these few numbers
        self.old, self.trace = getattr(old, "_orig_mod", old), trace

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.old(x, *args, **kwargs)
        self.trace.note("", x, y)
        return y


def why_out_of_order(parent: nn.Module, key: str, old: Any, block: Block) -> str:
    """Why the activation `key` of a block may not be the one between its maps, or "".

    Where the block cannot be run alone, its code has to do: an activation that it loads twice, or a
    sigmoid or tanh, which gate more often than they stand between two maps.
    """
    if isinstance(parent, CONTAINERS):
        return ""  # there the order is known
    trace = run_alone(parent, block, key, old)
    down = _down(parent, block)
    names = [name for name, _, _ in trace.calls] if trace else []
    if trace is not None and any(names):
        widths = {x.shape[-1] if x.ndim else 0 for name, x, _ in trace.calls if not name}
        if (times := names.count("")) != 1:
            return f"its block runs it {times} times"
        if widths != {block.d_hidden}:
            return f"it runs on width {widths.pop()}, not on the hidden width {block.d_hidden}"
        at = names.index("")
        # in BERT's layout the map back is elsewhere
        if at == 0 or down in names[:at] or (down and down not in names[at:]):
            return "its block does not run it between the two linear maps"
        return ""
    if times_loaded(parent, key) > 1:
        return "the forward of its module uses it more than once"
    try:
        gates = any(same_function(old, gate) for gate in (nn.Sigmoid(), nn.Tanh()))
    except Exception:  # it cannot be measured, which is refused elsewhere
        gates = False
    return "it is a sigmoid or tanh, which may be a gate" if gates else ""


def hides_activation(parent: nn.Module, block: Block) -> bool:
    """Whether a block that holds no activation may compute one between its two linear maps."""
    if isinstance(parent, CONTAINERS):
        return False
    trace = run_alone(parent, block)
    if trace is None or len(trace.calls) != 2:
        return True
    (_, _, y), (name, x, _) = trace.calls
    linear = name == _down(parent, block) and isinstance(y, Tensor) and y.shape == x.shape
    return not linear or x.is_meta or not torch.equal(x, y)


def run_alone(parent: nn.Module, block: Block, key: str = "", old: Any = None) -> Trace | None:
    """The trace of one forward of `parent` on a small random input, or None where it fails."""
    maps = linear_maps(parent)
    if any(m.stacked for m in maps):
        return None  # routed experts run as often as tokens reach them
    trace = Trace()
    edit = Edit(key, parent, key, _Listener(old, trace)) if key else None
    hooks = [
        parent.get_submodule(m.name).register_forward_hook(
            lambda module, args, y, name=m.name: trace.note(name, args[0] if args else None, y)
        )
        for m in maps
    ]
    try:
        if edit:
            edit.apply()
        with evaluating(parent), torch.no_grad(), torch.random.fork_rng(devices=[]):
            parent.forward(*_inputs(parent, block))
    except Exception:  # whatever a stranger's forward raises is an answer
        return None
    finally:
        if edit and not edit.changed():
            edit.revert()
        for hook in hooks:
            hook.remove()
    return trace


def _inputs(parent: nn.Module, block: Block) -> list[Tensor]:
    """A random input for every argument that has no default."""
    tensors = (p for p in parent.parameters() if p.is_floating_point())
    like = next(tensors, torch.empty(0))
    tokens = 3 if block.d_hidden != 3 else 5
    required = sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in inspect.signature(parent.forward).parameters.values()
    )
    generator = torch.Generator().manual_seed(0)
    shape = (2, tokens, block.d_model)
    return [
        torch.randn(shape, generator=generator, device="cpu").to(like.device, like.dtype)
        for _ in range(max(required, 1))
    ]


def _down(parent: nn.Module, block: Block) -> str:
    back = (block.d_hidden, block.d_model)
    return next((m.name for m in linear_maps(parent) if (m.reads, m.writes) == back), "")
