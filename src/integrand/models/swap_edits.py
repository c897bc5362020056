"""Edits to a model that can be taken back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from integrand.errors import SwapError

_ABSENT = object()


@dataclass
class Edit:
    """One attribute of one module, before and after."""

    name: str  # qualified, for messages
    parent: Any
    key: str
    new: Any
    old: Any = None
    root: Any = None  # the whole model, asked where the module itself holds no other tensor
    dtype: torch.dtype | None = None  # of the tensors around, when the edit was applied

    def held(self) -> Any:
        """What the attribute holds now."""
        return _held(self.parent, self.key)

    def apply(self) -> None:
        self.old = self.held()
        if isinstance(self.old, nn.Module):
            self.dtype = _dtype_around(self)
        _set(self.parent, self.key, self.new)

    def changed(self) -> bool:
        """Whether the attribute no longer holds what the edit put there."""
        held = self.held()
        return held is not self.new and (isinstance(self.new, nn.Module) or held != self.new)

    def revert(self) -> None:
        _set(self.parent, self.key, self.old)


def _held(parent: Any, key: str) -> Any:
    if isinstance(parent, nn.Module) and key in parent._modules:
        return parent._modules[key]
    return vars(parent).get(key, _ABSENT)


def _set(parent: Any, key: str, value: Any) -> None:
    if not isinstance(parent, nn.Module):
        if value is _ABSENT:
            delattr(parent, key)
        else:
            setattr(parent, key, value)
    elif isinstance(value, nn.Module):
        vars(parent).pop(key, None)
        parent._modules[key] = value
    else:
        parent._modules.pop(key, None)
        vars(parent)[key] = value


def apply_all(edits: list[Edit]) -> None:
    """All edits, or none where one fails."""
    done: list[Edit] = []
    try:
        for edit in edits:
            edit.apply()
            done.append(edit)
    except BaseException:
        for edit in reversed(done):
            edit.revert()
        raise


def revert_all(edits: list[Edit]) -> None:
    """Take back all edits in reverse order.

    Raises:
        SwapError: something else was put where an edit was; nothing is touched then.
    """
    for edit in edits:
        if edit.changed():
            held = edit.held()
            what = "nothing" if held is _ABSENT else type(held).__name__
            raise SwapError(
                f"'{edit.name}' was changed after the swap: it holds {what} now, so undo would"
                " overwrite it; undo the later change first"
            )
    for edit in reversed(edits):
        if isinstance(edit.old, nn.Module):
            _follow(edit)
        edit.revert()


def _follow(edit: Edit) -> None:
    """Bring a module that comes back to where its place has gone: mode, device and type."""
    old, parent = edit.old, edit.parent
    old.train(edit.new.training)
    around = next(itertools.chain(parent.parameters(), parent.buffers()), None)
    held = next(itertools.chain(old.parameters(), old.buffers()), None)
    if around is not None and held is not None and around.device != held.device:
        old.to(around.device)
    # a type of its own, such as fp32 in a bf16 block, stays where nothing was cast since
    if (dtype := _dtype_around(edit)) and dtype != edit.dtype:
        old.to(dtype)


def _dtype_around(edit: Edit) -> torch.dtype | None:
    """The floating type of the tensors nearest to an edit, other than those it exchanges."""
    ours = {id(m) for x in (edit.old, edit.new) if isinstance(x, nn.Module) for m in x.modules()}
    for module in (edit.parent, edit.root):
        for inner in module.modules() if isinstance(module, nn.Module) else ():
            if id(inner) in ours:
                continue
            for t in itertools.chain(inner.parameters(False), inner.buffers(False)):
                if t.is_floating_point():
                    return t.dtype
    return None
