"""What commands share: how they read their arguments, keep their results and speak."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Dtype = Literal["bf16", "fp16", "fp32", "fp64"]


def activation_of(
    what: str | None, param: Sequence[str], function: bool, anchor: str | None, name: str
) -> Any:
    from integrand.activation import derive as derived
    from integrand.declared import declared

    return derived(declared(what or "", param, function, anchor, name))


def dtypes(names: Sequence[str]) -> tuple[Any, ...]:
    import torch

    known = {
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "fp32": torch.float32,
        "fp64": torch.float64,
    }
    return tuple(known[name] for name in names)


def keep(path: Path | None, data: dict[str, Any]) -> None:
    if path is None:
        return
    from integrand.report.machine import environment
    from integrand.train.files import write_json
    from integrand.train.runs import command

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": command(), "environment": environment(), **data})


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(message: str, status: int) -> int:
    tell("integrand: " + " ".join(message.split()))
    return status
