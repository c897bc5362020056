"""The feed-forward blocks of a model, by what they compute.

Dimensions: D d_model, H d_hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from integrand.errors import Error
from integrand.models.swap_blocks import linear_maps
from integrand.models.swap_sites import Candidate, survey
from integrand.sparsity.frozen import frozen

Form = Literal["plain", "gated", "both"]
# random tokens of rising size: act(up) and up differ at half of them, and a limit inside a block,
# such as a clamp at 7, shows at the large ones
SCALES = (1.0, 1e1, 1e2, 1e3, 1e4)
ROWS = 8 * len(SCALES)
log = logging.getLogger("integrand")


class Matrix(NamedTuple):
    """A linear map as `F.linear` takes it: weight (out, in), a view, and bias (out) or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(eq=False, frozen=True, slots=True)
class FeedForward:
    """One block: y = down(h) with h (..., H) by its form.

    plain: h = act(up x); gated: h = act(gate x) * (up x); both: h = act(gate x) * act(up x), dReLU
    for ReLU (arXiv:2406.05955).
    """

    name: str
    module: nn.Module
    form: Form
    act: Callable[[Tensor], Tensor]
    inner: tuple[nn.Module, ...]  # (up,), (gate, up), or one map that holds both, gate first
    down: nn.Module

    @property
    def d_hidden(self) -> int:
        return self.matrices()[-1].weight.shape[1]

    def beside(self) -> Iterator[tuple[str, nn.Module]]:
        """The block's modules by name but for its maps and its activation: itself, a dropout."""
        held = (*self.inner, self.down, self.act)
        inside = {m for part in held if isinstance(part, nn.Module) for m in part.modules()}
        return ((name, m) for name, m in self.module.named_modules() if m not in inside)

    def matrices(self) -> tuple[Matrix | None, Matrix, Matrix]:
        """(gate, up, down), now: weights (H, D), (H, D) and (D, H); a plain block has no gate."""
        maps = [matrix(m) for m in self.inner]
        if self.form != "plain" and len(maps) == 1:
            weight, bias = maps[0]
            biases = bias.chunk(2) if bias is not None else (None, None)
            maps = [Matrix(w, b) for w, b in zip(weight.chunk(2), biases, strict=True)]
        gate = maps[0] if self.form != "plain" else None
        return gate, maps[-1], matrix(self.down)

    def inner_values(self, x: Tensor) -> tuple[Tensor, ...]:
        """The values (..., H) before the activation: (up x,) or (gate x, up x)."""
        values = [m(x) for m in self.inner]
        if self.form != "plain" and len(values) == 1:
            values = list(values[0].chunk(2, dim=-1))
        return tuple(values)

    def hidden(self, x: Tensor) -> Tensor:
        """h (..., H), what enters the map back."""
        return _hidden(self.form, self.act, self.inner_values(x))


def feed_forwards(model: nn.Module) -> list[FeedForward]:
    """Every feed-forward block of `model` in its order, each checked by running it.

    A block counts where its activation is an attribute or a child, and what enters its map back is
    exactly one of the forms above of what its other maps give: a block that does anything else
    (a norm or a clamp inside, dropout in training mode) is none, nor one that does not run on
    hidden states alone.

    Raises:
        Error: there is none, with the reason of the first candidate.
    """
    return understood(model)[0]


def understood(model: nn.Module) -> tuple[list[FeedForward], dict[str, str]]:
    """The blocks of `feed_forwards`, and the reason for each one that is left, by its name."""
    found, left = [], {}
    known = survey(model)
    for candidate in known.candidates:
        block = _block_of(candidate)
        if isinstance(block, FeedForward):
            found.append(block)
        else:
            place = candidate.name.rpartition(".")[0]
            left.setdefault(place, f"'{candidate.name}' {block}")
    for name in known.hidden:
        left[name.strip("'")] = "calls its activation inside forward, where nobody can see it"
    for block in found:
        left.pop(block.name, None)
    if not found:
        reason = next(iter(left.values()), "no activation is an attribute or a child of a module")
        raise Error(
            "sparsity needs feed-forward blocks act(up x) or act(gate x) * (up x) with a linear map"
            f" back, got none: {reason}"
        )
    return found, left


def warn_of(left: Mapping[str, str]) -> None:
    """One line of log about the blocks that are not understood."""
    if left:
        name, reason = next(iter(left.items()))
        log.warning("%d blocks are left out, such as '%s': %s", len(left), name, reason)


def _block_of(candidate: Candidate) -> FeedForward | str:
    """The block around an activation, or why it is not one that is understood."""
    parent = candidate.parent
    maps = [parent.get_submodule(m.name) for m in linear_maps(parent) if not m.stacked]
    if candidate.block is None or len(maps) not in (2, 3):
        reason = candidate.reason or "not in a block with its own two or three linear maps"
        return f"is left: {reason}"
    if any(_is_strange(m) for m in maps):
        return "is in a block whose linear maps hold no matrix of floats"
    try:
        found = _measured(candidate, candidate.block.kind, *maps)
    except Error:
        raise
    # whatever a stranger's forward function raises
    except Exception as error:
        return "is in a block that " + cannot_run(error)
    return found or "is in a block that does something else between its linear maps"


def cannot_run(error: Exception) -> str:
    """The reason for a block that raises when it is given hidden states."""
    said = str(error).strip().partition("\n")[0]
    return f"does not run on hidden states alone ({type(error).__name__}: {said})"


def _measured(site: Candidate, kind: str, *maps: nn.Module) -> FeedForward | None:
    """The block with the form that explains what enters its map back."""
    *inner, down = maps
    name = site.name.rpartition(".")[0]
    act = site.old
    given, entered = _probe(site.parent, inner, down)
    for form, order in _hypotheses(kind, inner):
        values = [given[m] for m in order]
        if form != "plain" and len(order) == 1:
            values = list(values[0].chunk(2, dim=-1))
        with torch.no_grad():
            expected = _hidden(form, act, tuple(values))
        if same(expected, entered):
            return FeedForward(name, site.parent, form, act, tuple(order), down)
    return None


def tokens(number: int, like: Tensor) -> Tensor:
    """(number, D) random hidden states for a weight (H, D): all of `SCALES` in turn."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(SCALES).repeat(-(-number // len(SCALES)))[:number, None]
    return (torch.randn(number, like.shape[1], generator=generator) * scale).to(like)


def same(expected: Tensor, got: Tensor) -> bool:
    """Whether two outputs are equal where both are finite; where none is, nothing is known."""
    if expected.shape != got.shape:
        return False
    finite = expected.isfinite() & got.isfinite()
    # of its own row each, of which some are large; the block may fuse its product: a rounding less
    size = expected.masked_fill(~finite, 0).abs().amax(-1, keepdim=True)
    near = (expected - got).abs() <= 4 * torch.finfo(got.dtype).eps * size
    return bool(finite.any()) and bool(near[finite].all())


def _hypotheses(kind: str, inner: list[nn.Module]) -> Iterator[tuple[Form, tuple[nn.Module, ...]]]:
    if kind == "plain":
        yield "plain", tuple(inner)
        return
    orders = [tuple(inner), tuple(reversed(inner))][: len(inner)]
    yield from (("gated", order) for order in orders)
    yield from (("both", order) for order in orders[:1])


def _hidden(form: Form, act: Callable[[Tensor], Tensor], values: tuple[Tensor, ...]) -> Tensor:
    first = act(values[0])
    if form == "plain":
        return first
    return first * (act(values[1]) if form == "both" else values[1])


def _probe(
    block: nn.Module, inner: list[nn.Module], down: nn.Module
) -> tuple[dict[nn.Module, Tensor], Tensor]:
    """What each inner map gives and what enters the map back, for a few random rows."""
    given: dict[nn.Module, Tensor] = {}
    entered: list[Tensor] = []
    rows = tokens(ROWS, matrix(inner[0]).weight).unsqueeze(0)
    hooks = [
        m.register_forward_hook(lambda module, _, out: given.update({module: out.detach()}))
        for m in inner
    ]
    hooks.append(down.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach())))
    try:
        with frozen(block):
            block(rows)
    finally:
        for hook in hooks:
            hook.remove()
    return given, entered[0]


def matrix(module: nn.Module) -> Matrix:
    weight, bias = cast(Tensor, module.weight), getattr(module, "bias", None)
    # transformers' Conv1D holds its matrix as (in, out)
    return Matrix(weight.t() if hasattr(module, "nf") else weight, bias)


def _is_strange(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point()
