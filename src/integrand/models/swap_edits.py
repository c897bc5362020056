"""Edits to a model that can be taken back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

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

    def held(self) -> Any:
        """What the attribute holds now."""
        return _held(self.parent, self.key)

    def apply(self) -> None:
        self.old = self.held()
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
            _follow(edit.old, edit.parent, edit.new.training)
        edit.revert()


def _follow(old: nn.Module, parent: nn.Module, training: bool) -> None:
    """Bring a module that comes back to where its place has gone: mode and device."""
    old.train(training)
    around = next(itertools.chain(parent.parameters(), parent.buffers()), None)
    held = next(itertools.chain(old.parameters(), old.buffers()), None)
    if around is not None and held is not None and around.device != held.device:
        old.to(around.device)
