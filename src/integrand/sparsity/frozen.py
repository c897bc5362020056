"""A model held still while it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from integrand.errors import Error


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within: evaluation mode and no gradients."""
    first = next(model.parameters(), None)
    if first is None or first.is_meta:
        raise Error(
            "a model must hold its weights to be measured, got "
            + ("parameters on the meta device" if first is not None else "no parameter")
            + "; load its checkpoint first"
        )
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was in modes.items():
            module.training = was
