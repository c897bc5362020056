"""Feed-forward blocks by structure: linear maps that lead to a hidden width and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, TypeGuard

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONVOLUTION = nn.modules.conv._ConvNd
Kind = Literal["plain", "gated"]


@dataclass(frozen=True)
class LinearMap:
    """A linear map by its name in its module; a stack of experts has an open orientation."""

    name: str
    reads: int
    writes: int
    stacked: bool = False


@dataclass(frozen=True)
class Block:
    """A feed-forward block d -> h -> d around an activation."""

    kind: Kind
    d_model: int
    d_hidden: int


def linear_maps(module: nn.Module) -> list[LinearMap]:
    """The linear maps that `module` holds itself: children and stacks of expert matrices.

    A child is a linear map where it says its widths as torch's, PEFT's and the quantisers' Linear
    do (`in_features`, `out_features`) or as transformers' Conv1D (`nx`, `nf`), where it wraps one
    and nothing else, or where it holds a stack of experts.
    """
    maps = []
    for name, child in module._modules.items():
        if child is not None and (widths := _widths(child)):
            maps.append(LinearMap(name, *widths))
    for name, parameter in module._parameters.items():
        if _is_stack(parameter):
            maps.append(LinearMap(name, parameter.shape[1], parameter.shape[2], stacked=True))
    return maps


def _widths(child: nn.Module) -> tuple[int, int, bool] | None:
    for reads, writes in (("in_features", "out_features"), ("nx", "nf")):
        widths = getattr(child, reads, None), getattr(child, writes, None)
        if isinstance(widths[0], int) and isinstance(widths[1], int):
            return widths[0], widths[1], False
    inner, own = list(child.children()), list(child.parameters(recurse=False))
    if len(inner) == 1 and not own:
        return _widths(inner[0])
    if not inner and len(own) == 1 and _is_stack(own[0]) and not isinstance(child, _CONVOLUTION):
        return own[0].shape[1], own[0].shape[2], True
    return None


def _is_stack(parameter: nn.Parameter | None) -> TypeGuard[nn.Parameter]:
    return parameter is not None and parameter.ndim == 3 and min(parameter.shape) > 1


def block_of(module: nn.Module, narrow: bool = False) -> Block | None:
    """The block whose linear maps are exactly those of `module`, if it is one; `narrow`: any width.

    plain: d -> h and h -> d with h > d. gated: two d -> h, or one d -> 2h, and one h -> d. A map
    to h is registered before the one back. Stacks of experts may be narrower than d and are stored
    either way round. A gated recurrence has a convolution too, a gated feed-forward block none.
    """
    maps = linear_maps(module)
    if len(maps) not in (2, 3):
        return None
    for choice in itertools.product(*(_orientations(m) for m in maps)):
        for at in range(1, len(choice)):
            up = choice[:at] + choice[at + 1 :]
            block = _block(up, choice[at], narrow or all(m.stacked for m in maps))
            if block and (block.kind == "plain" or _may_gate(module)):
                return block
    return None


def _orientations(m: LinearMap) -> list[tuple[int, int]]:
    return [(m.reads, m.writes), (m.writes, m.reads)][: 2 if m.stacked else 1]


def _may_gate(module: nn.Module) -> bool:
    convolves = any(isinstance(c, _CONVOLUTION) for c in module.children())
    return not convolves and not isinstance(module, CONTAINERS)


def _block(up: tuple[tuple[int, int], ...], down: tuple[int, int], narrow: bool) -> Block | None:
    h, d = down
    if len(up) == 2:
        # three maps d -> d are the query, key and value of attention
        return Block("gated", d, h) if up[0] == up[1] == (d, h) != (d, d) else None
    if up[0] == (d, 2 * h):
        return Block("gated", d, h)
    return Block("plain", d, h) if up[0] == (d, h) != (d, d) and (h > d or narrow) else None


def split_block(module: nn.Module, parent: nn.Module) -> Block | None:
    """BERT's layout: `module` holds d -> h, another child of `parent` holds h -> d, h > d."""
    if len(up := linear_maps(module)) != 1:
        return None
    d, h = up[0].reads, up[0].writes
    for sibling in parent.children():
        down = linear_maps(sibling)
        if sibling is not module and len(down) == 1 and (down[0].reads, down[0].writes) == (h, d):
            return Block("plain", d, h) if h > d else None
    return None


def between_linear_maps(module: nn.Module, name: str) -> bool:
    """Whether child `name` stands between two linear maps that `module` holds itself.

    In a container the order decides; elsewhere one map must read what another writes.
    """
    maps = linear_maps(module)
    if isinstance(module, CONTAINERS):
        order = list(module._modules)
        places = [order.index(m.name) for m in maps if m.name in order]
        here = order.index(name)
        return any(p < here for p in places) and any(p > here for p in places)
    return any(a.writes == b.reads for a, b in itertools.permutations(maps, 2))


def only_linear_maps(model: nn.Module) -> bool:
    """Whether every matrix of `model` belongs to a linear map: an MLP, with or without norms."""
    mapped = {
        id(p)
        for module in model.modules()
        for m in linear_maps(module)
        if not m.stacked
        for p in module.get_submodule(m.name).parameters()
    }
    return all(p.ndim < 2 or id(p) in mapped for p in model.parameters())
