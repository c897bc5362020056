"""Running a model on a user's data, leaving no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import SwapError

Data = Tensor | Mapping[str, Any] | tuple[Any, ...] | Iterable[Any] | Callable[[nn.Module], Any]


def run(model: nn.Module, data: Data) -> None:
    """Forward passes of `model` over `data`, in evaluation mode and without autograd.

    A tensor is one batch, a mapping one batch of keywords, a tuple one of positional arguments;
    any other iterable gives batches; a callable gets the model and runs it itself.
    """
    with evaluating(model), torch.no_grad():
        if callable(data):
            data(model)
        elif _is_batch(data):
            _forward(model, data)
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            for batch in data:
                _forward(model, batch)
        else:
            raise SwapError(
                "data for the model must be a batch (tensor, mapping, tuple), an iterable of"
                f" batches or a callable that runs the model, got {type(data).__name__}"
            )


def _is_batch(data: Any) -> bool:
    return isinstance(data, Tensor | Mapping | tuple)


def _forward(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within: every module evaluates; after it, each is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
