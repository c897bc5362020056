"""What the code of a module's forward names: read from its bytecode, without running it."""

from __future__ import annotations

import dis
import functools
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

# functions of torch, and transformers' table, that compute an activation inside a forward
_TORCH = """celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish prelu relu
relu6 relu_ rrelu selu sigmoid silu silu_ softplus softshrink softsign swish tanh tanhshrink"""
ACTIVATION_CALLS = frozenset(("ACT2FN", "get_activation", *re.findall(r"\w+", _TORCH)))


def names_used(module: nn.Module) -> frozenset[str]:
    """Every name that the methods of `module` load; a forward set on the instance goes first."""
    if "forward" in vars(module):
        own = [vars(module)["forward"], vars(module).get("_old_forward")]
        return frozenset(n for f in own if f is not None for n in _names(f))
    return _class_names(type(module))


def times_loaded(module: nn.Module, key: str) -> int:
    """How often the code of `module`'s forward loads the attribute `key`."""
    code = getattr(_plain(module.forward), "__code__", None)
    return sum(i.argval == key for i in dis.get_instructions(code)) if code else 0


@functools.cache
def _class_names(cls: type) -> frozenset[str]:
    names: set[str] = set()
    defined: set[str] = {"__init__"}
    for base in cls.__mro__:
        if base is nn.Module:
            break
        for attribute, value in vars(base).items():
            # an overridden method runs only through super()
            if attribute not in defined or (attribute != "__init__" and "super" in names):
                names.update(_names(value))
        defined |= set(vars(base))
    return frozenset(names)


def _names(function: Any) -> Iterator[str]:
    seen: list[Any] = []
    queue = [function]
    while queue:
        f = _plain(queue.pop())
        code = getattr(f, "__code__", f if isinstance(f, types.CodeType) else None)
        if code is None or code in seen:
            continue
        seen.append(code)
        yield from code.co_names
        queue.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
        # a decorator keeps the method it wraps in a closure
        for cell in getattr(f, "__closure__", None) or ():
            value = _content(cell)
            if isinstance(value, types.FunctionType | types.MethodType):
                queue.append(value)


def _plain(f: Any) -> Any:
    """The function inside a partial, a method, a property or a decorator that keeps it."""
    for inner in ("func", "__func__", "fget"):
        f = getattr(f, inner, f)
    return inspect.unwrap(f) if callable(f) else f


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None
