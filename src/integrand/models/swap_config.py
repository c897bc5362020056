"""A transformers config that names the new activation, so that a saved model loads as it is."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from torch import nn

from integrand.activation import Activation
from integrand.models.registered import FIELD, config_fields
from integrand.models.swap_edits import Edit, apply_all, revert_all
from integrand.models.swap_probe import same_function
from integrand.models.swap_sites import Candidate
from integrand.nn.pointwise import Pointwise

_log = logging.getLogger("integrand")

STALE = (
    "config unchanged, since a model built from it would not be this one: to load what you save,"
    " build the model, swap it again, then load_state_dict"
)


def rename_in_config(
    model: nn.Module, act: Activation, replaced: dict[Candidate, Pointwise]
) -> tuple[list[Edit], str]:
    """Edits that make a swapped transformers model's config name `act`, applied; and a note.

    They stay only where a model built from the edited config (on `meta`) has the same tensors and
    the same activations at every replaced site; else they are taken back. Where a checkpoint means
    the same function under either name, the old one stays: others can read it.
    """
    if not hasattr(getattr(model, "config", None), "to_dict") or "transformers" not in sys.modules:
        return [], ""
    changed = {c: new for c, new in replaced.items() if not _interchangeable(c.old, new)}
    if not changed:
        return [], ""
    fields = {(id(o), f): (o, f) for c in changed for o, f in _naming(model, c)}
    edits = []
    for owner, field in fields.values():
        named = config_fields(act, field)
        table = {**(getattr(owner, FIELD, None) or {}), **named[FIELD]}
        edits.append(Edit(f"config.{field}", owner, field, named[field]))
        edits.append(Edit(f"config.{FIELD}", owner, FIELD, table))
    if not edits:
        return [], STALE
    apply_all(edits)
    if _rebuilds(model, replaced):
        shown = ", ".join(sorted({f"{e.key} = {e.new}" for e in edits if e.key != FIELD}))
        return edits, f"config: {shown}"
    revert_all(edits)
    shown = ", ".join(f"{f} = {vars(o)[f]}" for o, f in fields.values())
    _log.warning(
        "the config still names the old activation (%s), since a model built from it would not be"
        " this one: to load what you save, build the model, swap it again, then load_state_dict",
        shown,
    )
    return [], STALE


def _interchangeable(old: Any, new: Pointwise) -> bool:
    keys = set(old.state_dict()) if isinstance(old, nn.Module) else set()
    return keys == set(new.state_dict()) and same_function(old, new)


def _naming(model: nn.Module, site: Candidate) -> list[tuple[Any, str]]:
    """The fields that name the site's activation, in the configs of the modules around it."""
    from transformers.activations import ACT2FN

    path = site.name.split(".")
    around = [model.get_submodule(".".join(path[:n])) for n in range(len(path))]
    # an encoder may hold a copy of the whole model's config
    configs = {id(c): c for m in around if hasattr(c := getattr(m, "config", None), "to_dict")}
    return [
        (config, field)
        for config in configs.values()
        for field, value in vars(config).items()
        if isinstance(value, str) and value in ACT2FN and type(ACT2FN[value]) is type(site.old)
    ]


def _rebuilds(model: Any, replaced: dict[Candidate, Pointwise]) -> bool:
    """Whether the saved form of the config builds a model with these tensors and activations."""
    try:
        config = type(model.config).from_dict(model.config.to_dict())
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            built = type(model)(config)
        there = [built.get_submodule(c.name) for c in replaced]
    except Exception:  # whatever a stranger's constructor raises is an answer
        return False
    same = all(
        isinstance(t, Pointwise) and t.spec.sha256 == new.spec.sha256
        for t, new in zip(there, replaced.values(), strict=True)
    )
    return same and set(built.state_dict()) == set(model.state_dict())
