"""Activation parameters that a checkpoint lacks: an error, unless the activation is to be new."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from torch import nn

from integrand.errors import DataError
from integrand.nn.pointwise import Pointwise

_new: ContextVar[bool] = ContextVar("new_activations", default=False)
_log = logging.getLogger("integrand")
_SHOWN = 8


@contextlib.contextmanager
def new_activations() -> Iterator[None]:
    """Within it, transformers' `from_pretrained` starts missing activation parameters as declared.

        with ig.models.new_activations():
            model = LlamaForCausalLM.from_pretrained(path, hidden_act="integrand/xielu")

    Without it a checkpoint that lacks them is an error: a converter may have dropped trained ones.
    """
    token = _new.set(True)
    try:
        yield
    finally:
        _new.reset(token)


def start_missing(model: nn.Module) -> None:
    """Give the activation tensors that no checkpoint filled their declared values.

    To be called where transformers has put empty memory in their place.

    Raises:
        DataError: outside of `new_activations`.
    """
    missing = {
        path: names
        for path, module in model.named_modules()
        if isinstance(module, Pointwise) and (names := _unfilled(module))
    }
    if not missing:
        return
    keys = [f"{path}.{name}".lstrip(".") for path, names in missing.items() for name in names]
    shown = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" * (len(keys) > _SHOWN))
    origin = getattr(getattr(model, "config", None), "name_or_path", "") or "the state dict"
    if not _new.get():
        raise DataError(
            f"a checkpoint must hold the parameters of its activations, but {origin} lacks {shown};"
            " take a complete one, or load within `with integrand.models.new_activations():` to"
            " start them at their declared values"
        )
    _log.warning("%s lacks %s: they start at their declared values", origin, shown)
    for path, names in missing.items():
        module: Any = model.get_submodule(path)
        module.reset_parameters(names)


def _unfilled(module: Pointwise) -> list[str]:
    tensors = itertools.chain(
        module.named_parameters(recurse=False), module.named_buffers(recurse=False)
    )
    # transformers marks what it read; on other ranks than the first, values are still to come
    return [n for n, t in tensors if not t.is_meta and not getattr(t, "_is_hf_initialized", False)]
