"""Run a function on a module of another library as soon as someone imports it, never before."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Action = Callable[[ModuleType], None]


class _Watch(MetaPathFinder):
    """Finds what the finders behind it find, and has the action run after the module."""

    def __init__(self) -> None:
        self.actions: dict[str, Action] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.actions:
            return None
        others = [f for f in sys.meta_path if f is not self and hasattr(f, "find_spec")]
        found = (f.find_spec(fullname, path, target) for f in others)
        spec = next((s for s in found if s is not None), None)
        if spec is not None and spec.loader is not None:
            run = functools.partial(_run, spec.loader.exec_module, self.actions[fullname])
            spec.loader.exec_module = run  # pyrefly: ignore[bad-assignment]
        return spec


def _run(execute: Action, action: Action, module: ModuleType) -> None:
    execute(module)
    action(module)


_watch = _Watch()


def on_import(name: str, action: Action) -> None:
    """Run `action` on module `name`: now if it is imported, else right after its import."""
    if _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)
    _watch.actions[name] = action
    if name in sys.modules:
        action(sys.modules[name])
