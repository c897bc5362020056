"""From a gated feed-forward block to a plain one of the same weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from integrand.errors import SwapError
from integrand.models.swap_blocks import LinearMap, block_of, linear_maps
from integrand.models.width import plain_width, relative_difference
from integrand.nn.gated import MakesModule
from integrand.nn.mlp import MLP

TOLERANCE = 1e-3  # of the number of parameters


@dataclass(frozen=True)
class PlainBlock:
    """A plain block, the config fields it changes, and both numbers of parameters."""

    module: MLP
    config: dict[str, int]
    parameters: int
    gated_parameters: int


def plain_from_gated(
    block: nn.Module, activation: MakesModule, multiple: int = 1, seed: int = 0
) -> PlainBlock:
    """A new down(act(up(x))) in place of down(act(gate(x)) * up(x)), 1.5 times as wide.

    The rule of arXiv:2411.13010: two matrices then hold what three did. No plain block computes the
    function of a gated one, so the weights are fresh and the model has to be trained: N(0, s^2)
    with s the root mean square of the old up matrices, and of the old down matrix times
    sqrt(old width / new width), which makes up for the wider sum; biases 0.

    Args:
        block: transformers' LlamaMLP, Phi3MLP (fused), `integrand.nn.GatedMLP`, or any module whose
            linear maps are d -> h twice, or d -> 2h, and h -> d.
        multiple: the new width is the nearest multiple of it.
        seed: of the new weights.

    Raises:
        SwapError: not a gated block, or parameters that differ by more than 0.1 %.
    """
    maps = linear_maps(block)
    shape = block_of(block)
    if shape is None or shape.kind != "gated" or any(m.stacked for m in maps):
        raise SwapError(
            "a gated block holds linear maps d -> h twice (or d -> 2h) and h -> d, got"
            f" {type(block).__name__} with {', '.join(map(_text, maps)) or 'none'}"
        )
    d, h = shape.d_model, shape.d_hidden
    *ups, down = _matrices(block, maps, (h, d))
    width = plain_width(h, multiple)
    bias = any(getattr(block.get_submodule(m.name), "bias", None) is not None for m in maps)
    plain = MLP(activation, d, width, bias, dtype=down.dtype, device=down.device)
    made = PlainBlock(plain, {"intermediate_size": width}, _count(plain), _count(block))
    if relative_difference(made.parameters, made.gated_parameters) > TOLERANCE:
        raise SwapError(
            f"the plain block must hold the {made.gated_parameters} parameters of the gated one to"
            f" 0.1 %, got {made.parameters} at width {width}; choose a multiple smaller than"
            f" {multiple}, or build integrand.nn.MLP with a width of your own"
        )
    if not down.is_meta:
        _fill(plain, _rms(ups), _rms([down]) * math.sqrt(h / width), seed)
    return made


def _text(m: LinearMap) -> str:
    return f"{m.name} {m.reads} -> {m.writes}"


def _matrices(block: nn.Module, maps: list[LinearMap], back: tuple[int, int]) -> list[torch.Tensor]:
    """The weights of the maps to the hidden width, then that of the one back."""
    last = max(i for i, m in enumerate(maps) if (m.reads, m.writes) == back)
    weights = []
    for m in (*maps[:last], *maps[last + 1 :], maps[last]):
        weight = getattr(block.get_submodule(m.name), "weight", None)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            raise SwapError(f"'{m.name}' must hold its matrix of floats as `weight`")
        weights.append(weight)
    return weights


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _rms(matrices: list[torch.Tensor]) -> float:
    squares = sum(w.detach().double().square().sum().item() for w in matrices)
    return math.sqrt(squares / sum(w.numel() for w in matrices))


def _fill(plain: MLP, up: float, down: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear, std in ((plain.up_proj, up), (plain.down_proj, down)):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * std)
            if linear.bias is not None:
                linear.bias.zero_()
