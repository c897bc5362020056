"""Finding the activations of a model and deciding which of them are feed-forward ones."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from integrand.errors import SwapError
from integrand.models.swap_blocks import (
    CONTAINERS,
    Block,
    between_linear_maps,
    block_of,
    only_linear_maps,
    split_block,
)
from integrand.models.swap_calls import ACTIVATION_CALLS, names_used
from integrand.models.swap_order import hides_activation, why_out_of_order
from integrand.models.swap_probe import is_affine, why_not_pointwise

_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)
_NAMED = re.compile(r"(^|_)(act(|_.*|\d+|fn|iv.*)|nonlin.*)($|_)")
_ENDING = re.compile(r"(^|_)(act|activation|nonlinearity)(_?fn|_?fct|_?func(tion)?)?\d*$")


@dataclass(eq=False)
class Candidate:
    """An activation as a model holds it: a child module, or a function in an attribute."""

    name: str  # qualified
    parent: nn.Module
    key: str
    old: Any
    block: Block | None = None
    reason: str = ""  # why it is not replaced by default
    doubtful: bool = False  # in a feed-forward block, yet not certain to be its activation

    @property
    def is_module(self) -> bool:
        return isinstance(self.old, nn.Module)


@dataclass
class Survey:
    """Everything found: candidates, and blocks whose activation no attribute holds."""

    candidates: list[Candidate] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    is_mlp: bool = False  # nothing but linear maps, norms and activations


def survey(model: nn.Module) -> Survey:
    """Every activation of `model` by qualified name, with the feed-forward block around it."""
    found = Survey(is_mlp=only_linear_maps(model))
    modules = dict(model.named_modules())
    inside: set[nn.Module] = set()
    for path, parent in modules.items():
        if parent in inside or _is_activation(parent):
            inside |= set(parent.modules())
            continue
        here = [Candidate(_join(path, k), parent, k, old) for k, old in _activations_in(parent)]
        above = modules.get(path.rpartition(".")[0]) if path else None
        for candidate in here:
            _place(candidate, above)
        if len(placed := [c for c in here if c.block]) > 1:
            for candidate in placed:
                candidate.doubtful = True
                candidate.reason = f"its block holds {len(placed)} activations"
        found.candidates += here
        if not placed and (block := block_of(parent)) and _hides(parent, block):
            found.hidden.append(f"'{path}'" if path else type(parent).__name__)
    _place_narrow(found)
    return found


def _hides(parent: nn.Module, block: Block) -> bool:
    return bool(names_used(parent) & ACTIVATION_CALLS) or hides_activation(parent, block)


def _place_narrow(found: Survey) -> None:
    """A class that is a feed-forward block elsewhere in the model is one at any width."""
    known = {type(c.parent) for c in found.candidates if c.block} - set(CONTAINERS)
    for site in found.candidates:
        if site.block is None and type(site.parent) in known:
            site.block = block_of(site.parent, narrow=True)
            site.reason = "" if site.block else site.reason


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _activations_in(parent: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, child in parent._modules.items():
        if child is not None and (_is_activation(child) or _only_by_name(key, child)):
            yield key, child
    for key, value in vars(parent).items():
        if isinstance(value, _FUNCTIONS) and _is_activation_function(key, value):
            yield key, value


def _is_activation(module: nn.Module) -> bool:
    module = getattr(module, "_orig_mod", module)  # an activation under torch.compile
    if getattr(type(module), "is_integrand_activation", False):
        return True
    if any(name != "parametrizations" for name, _ in module.named_children()):
        return False
    homes = {cls.__module__ for cls in type(module).__mro__}
    if homes & {"torch.nn.modules.activation", "transformers.activations"}:
        return type(module).__name__ not in ("LinearActivation", "MultiheadAttention")
    home = type(module).__module__
    if home.startswith("torch.") or any(p.ndim > 1 for p in module.parameters()):
        return False
    return why_not_pointwise(module) is None and not is_affine(module)


def _only_by_name(key: str, module: nn.Module) -> bool:
    """Whether a stranger's module is called an activation, though it does not measure as one."""
    if not _ENDING.search(key) or type(module).__module__.startswith("torch."):
        return False
    return why_not_pointwise(module) is not None


def _is_activation_function(key: str, function: Callable[..., Any]) -> bool:
    inner = function.func if isinstance(function, functools.partial) else function
    of_torch = getattr(inner, "__module__", None) in ("torch.nn.functional", "torch._C._nn", None)
    known = of_torch and getattr(inner, "__name__", "") in ACTIVATION_CALLS
    # nobody else's function is called: it could do anything
    if key.startswith("_") or not (known or _NAMED.search(key)):
        return False
    return why_not_pointwise(function) is None and not is_affine(function)


def _place(site: Candidate, above: nn.Module | None) -> None:
    """Note the feed-forward block around a candidate, or why there is none."""
    block = block_of(site.parent)
    if block is None and above is not None:
        block = split_block(site.parent, above)
    in_order = isinstance(site.parent, CONTAINERS)
    if block is None:
        site.reason = "not between a linear map to a hidden width and one back"
    elif in_order and not between_linear_maps(site.parent, site.key):
        site.reason = "before or after the linear maps of its block"
    else:
        site.block = block
        if not in_order and site.key not in names_used(site.parent):
            site.doubtful = True
            site.reason = f"the forward of its module does not use '{site.key}'"


def default_sites(found: Survey) -> list[Candidate]:
    """The activations of feed-forward blocks; of an MLP as a whole where there is no block.

    Raises:
        SwapError: there is none, or a block computes its activation where nobody can see it.
    """
    if found.hidden:
        raise SwapError(
            f"{found.hidden[0]} has the linear maps of a feed-forward block but calls an activation"
            " inside forward instead of holding it in an attribute of its own, so nothing can be"
            " replaced there; hold it as `self.act_fn`, or name the activations to replace in"
            " sites="
        )
    chosen = [c for c in found.candidates if c.block]
    for site in chosen:
        if site.block and not site.doubtful:
            site.reason = why_out_of_order(site.parent, site.key, site.old, site.block)
            site.doubtful = bool(site.reason)
    if doubtful := [c for c in chosen if c.doubtful]:
        raise SwapError(
            f"whether '{doubtful[0].name}' is the activation of its feed-forward block is not"
            f" certain: {doubtful[0].reason}; name the activations to replace in sites="
        )
    if chosen:
        return chosen
    inside = [c for c in found.candidates if between_linear_maps(c.parent, c.key)]
    if found.is_mlp and inside and len(inside) == len(found.candidates):
        return inside
    raise SwapError(_none_found(found))


def _none_found(found: Survey) -> str:
    if not found.candidates:
        return (
            "no activation was found: no child module and no attribute of this model is one;"
            " a function called inside forward cannot be replaced, hold it as an attribute"
        )
    listed = ", ".join(f"'{c.name}'" for c in found.candidates[:6])
    more = f" and {len(found.candidates) - 6} more" if len(found.candidates) > 6 else ""
    return (
        "no activation stands for certain in a feed-forward block; name those to replace in"
        f" sites=, a name or a pattern such as '*.act': the model has {listed}{more}"
    )
