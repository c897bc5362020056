"""`swap`: another activation in any model, structurally and reversibly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from integrand.activation import Activation, derive
from integrand.activation import activation as by_name
from integrand.errors import SwapError
from integrand.models.swap_carry import device_around, successor
from integrand.models.swap_check import watch
from integrand.models.swap_config import rename_in_config
from integrand.models.swap_edits import Edit, apply_all, revert_all
from integrand.models.swap_refuse import check_model, check_site
from integrand.models.swap_report import Plans, Site, describe, report, table
from integrand.models.swap_run import Data
from integrand.models.swap_sites import Candidate, Survey, default_sites, survey
from integrand.models.swap_warm import fit, measured_inputs
from integrand.nn.pointwise import Pointwise
from integrand.spec import Spec, read_spec

Sites = str | Iterable[str] | Callable[[str, Any], bool]


@dataclass
class Swap:
    """What was done to a model: `sites`, printable as a table, and `undo`."""

    model: nn.Module = field(repr=False)
    sites: tuple[Site, ...]
    note: str  # about the config of a transformers model
    _edits: list[Edit] = field(repr=False)
    _undone: bool = field(default=False, repr=False)

    def undo(self) -> None:
        """Put every old object back: same modules and functions, state dict and outputs.

        Raises:
            SwapError: already undone, or a site holds something else by now.
        """
        if self._undone:
            raise SwapError("this swap was undone before; call ig.swap again to repeat it")
        revert_all(self._edits)
        self._undone = True

    def check(self, data: Data) -> list[str]:
        """Run the model on `data`, as for a warm start: the activations it calls inside a forward.

        Those are functions of torch like `F.gelu(x)` that no attribute holds, as
        "module: function"; a swap cannot reach them.

        Raises:
            SwapError: a replaced activation never ran.
        """
        ran, calls = watch(self.model, data)
        for edit in self._edits:
            if isinstance(edit.new, Pointwise) and edit.new not in ran:
                raise SwapError(
                    f"'{edit.name}' was replaced but never ran on this data: the model computes"
                    " something else there, or the data does not reach it"
                )
        return calls

    @property
    def replaced(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.replaced)

    def __str__(self) -> str:
        undone = ["undone: the model holds its old activations again"] if self._undone else []
        note = [self.note] if self.note and not self._undone else []
        return "\n".join([*undone, table(self.sites), *note])


def swap(
    model: nn.Module,
    activation: Activation | Spec | str | Path,
    sites: Sites | None = None,
    warm_start: Any = False,
) -> Swap:
    """Replace activations of `model`, in place.

    By default those of feed-forward blocks: an activation is one where its module (or, as in BERT,
    its module and a sibling) holds exactly the linear maps of such a block, d -> h -> d with h > d
    or gated, and its forward uses it. In a model without such blocks all activations are replaced
    if every one stands between two linear maps; everything else takes `sites`.

    Args:
        model: any module; swap before wrapping it (DDP, FSDP) and before building an optimiser.
        activation: an Activation, a Spec, a catalogue name or the path of a .toml file.
        sites: qualified names or patterns like "*.mlp.act_fn", one or several, or a predicate
            (name, old activation) -> bool.
        warm_start: data on which to measure the inputs of the old activations, to which the new
            one's parameters are then fitted: a batch (tensor, mapping of keywords, tuple of
            arguments), an iterable of batches, or a callable that is given the model and runs it.

    Returns:
        A `Swap`: `print(swap)` shows every activation before and after; `swap.undo()`.

    Raises:
        SwapError: in one sentence, which module cannot be replaced and what to do.
    """
    check_model(model)
    act = _activation(activation)
    found = survey(model)
    chosen = default_sites(found) if sites is None else _named(found, sites)
    for c in chosen:
        check_site(c.name, describe(c.old), c.old)
    plans = _plan(model, act, chosen)
    edits = [Edit(c.name, c.parent, c.key, plans[c][0], root=model) for c in chosen]
    edits += [e for c in chosen for e in _companions(c)]
    residuals = {} if warm_start is False else _warm(model, act, plans, edits, warm_start)
    apply_all(edits)
    renamed, note = rename_in_config(model, act, {c: new for c, (new, _) in plans.items()})
    return Swap(model, report(found, plans, residuals), note, edits + renamed)


def _warm(
    model: nn.Module, act: Activation, plans: Plans, edits: list[Edit], data: Any
) -> dict[int, tuple[float, float]]:
    if data is True:
        raise SwapError(
            "a warm start measures which inputs the old function gets, so it needs data: pass"
            " warm_start=batch, an iterable of batches, or a callable that runs the model"
        )
    if not any(p.trainable for p in act.spec.params.values()):
        raise SwapError(
            f"'{act.name}' has no trainable parameter to fit; leave warm_start out, or choose an"
            " activation with parameters"
        )
    for c in plans:
        if isinstance(c.old, Pointwise) and any(p.numel() > 1 for p in c.old.parameters()):
            raise SwapError(
                f"'{c.name}' has a value per channel, and one function cannot be fitted to many;"
                " leave warm_start out"
            )
    inputs = measured_inputs(model, edits, data)
    pairs = {id(new): (c.old, new) for c, (new, _) in plans.items()}
    return {key: fit(old, new, inputs[key]) for key, (old, new) in pairs.items()}


def _activation(activation: Activation | Spec | str | Path) -> Activation:
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, Spec):
        return derive(activation)
    if not isinstance(activation, str | Path):
        raise SwapError(
            "swap takes an Activation, a Spec, a catalogue name or a .toml path, got"
            f" {type(activation).__name__}"
        )
    is_file = isinstance(activation, Path) or activation.endswith(".toml")
    return derive(read_spec(activation)) if is_file else by_name(str(activation))


def _named(found: Survey, sites: Sites) -> list[Candidate]:
    if callable(sites):
        chosen = [c for c in found.candidates if sites(c.name, c.old)]
        if not chosen:
            raise SwapError("the predicate in sites= chose none of the model's activations")
        return chosen
    patterns = [sites] if isinstance(sites, str) else list(sites)
    if not patterns:
        raise SwapError("sites= is empty; leave it out to replace those of feed-forward blocks")
    chosen = []
    for pattern in patterns:
        hits = [c for c in found.candidates if fnmatchcase(c.name, pattern)]
        if not hits:
            known = ", ".join(f"'{c.name}'" for c in found.candidates[:8]) or "none"
            raise SwapError(
                f"sites='{pattern}' matches no activation of the model; it has: {known}"
            )
        chosen += [c for c in hits if c not in chosen]
    return chosen


def _plan(model: nn.Module, act: Activation, chosen: list[Candidate]) -> Plans:
    made: dict[int, tuple[Pointwise, tuple[str, ...]]] = {}
    plans: Plans = {}
    for c in chosen:
        # one module at two sites stays one module; a function has no identity to keep
        key = id(c.old) if c.is_module else id(c)
        if key not in made:
            training = c.old.training if c.is_module else c.parent.training
            made[key] = successor(c.name, act, c.old, device_around(c.parent, model), training)
        plans[c] = made[key]
    return plans


def _companions(candidate: Candidate) -> list[Edit]:
    # the fast path of torch's encoder layer computes ReLU or GELU by this number alone
    if candidate.key == "activation" and hasattr(candidate.parent, "activation_relu_or_gelu"):
        name = f"{candidate.name}_relu_or_gelu"
        return [Edit(name, candidate.parent, "activation_relu_or_gelu", 0)]
    return []
