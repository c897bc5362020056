"""What really runs: replaced sites that a forward pass reaches, activations it calls itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from integrand.models.swap_calls import ACTIVATION_CALLS
from integrand.models.swap_run import Data, run
from integrand.nn.pointwise import Pointwise


class _Watch(TorchFunctionMode):
    """Notes calls of torch's activation functions with the module whose forward makes them."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.running: list[nn.Module] = []
        self.ran: set[nn.Module] = set()
        self.calls: dict[str, None] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        called = getattr(func, "__name__", "")
        if called in ACTIVATION_CALLS and self.running and self.running[-1] in self.names:
            module = self.running[-1]
            if not isinstance(module, Pointwise):
                self.calls[f"{self.names[module] or type(module).__name__}: {called}"] = None
        return func(*args, **(kwargs or {}))

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.running.append(module)
        self.ran.add(module)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        while self.running and self.running.pop() is not module:
            pass


def watch(model: nn.Module, data: Data) -> tuple[set[nn.Module], list[str]]:
    """The modules that ran on `data`, and the activations called there as "module: function"."""
    seen = _Watch({module: name for name, module in model.named_modules()})
    handles = [
        nn.modules.module.register_module_forward_pre_hook(seen.enter),
        nn.modules.module.register_module_forward_hook(seen.leave, always_call=True),
    ]
    try:
        with seen, torch.compiler.set_stance("force_eager"):
            run(model, data)
    finally:
        for handle in handles:
            handle.remove()
    return seen.ran, list(seen.calls)
