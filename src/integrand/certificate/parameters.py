"""Parameter gradients of an implementation against fp64 sums of the program's partials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from integrand.certificate.formats import Format
from integrand.certificate.subject import Subject
from integrand.certificate.truth import Truth

# numerics: relative to the sum of absolute terms, on every path
ALLOWED = 1e-5


def parameter_errors(
    truth: Truth, fmt: Format, subject: Subject, count: int = 1 << 16
) -> dict[str, float]:
    """Per parameter: |computed - exact| / sum |dout * df/dtheta| over `count` normal draws of x,
    the worse of an incoming gradient of mixed signs and of its absolute value (in the first, errors
    of single terms cancel; the second shows them)."""
    names = [n for n in truth.values if f"d_{n}" in truth.program.outputs]
    if not names:
        return {}
    generator = torch.Generator().manual_seed(0)
    x, mixed = (torch.randn(count, generator=generator).to(fmt.dtype) for _ in range(2))
    exact = truth.fp64(x.double().numpy(), [f"d_{n}" for n in names])
    leaves = {k: v.detach().clone().requires_grad_() for k, v in subject.params.items()}
    errors = dict.fromkeys(names, 0.0)
    for dout in (mixed, mixed.abs()):
        y = subject.call(x.to(subject.device), leaves)
        computed: Sequence[torch.Tensor | None] = [None] * len(names)
        if y.requires_grad:
            computed = torch.autograd.grad(
                y, [leaves[n] for n in names], dout.to(subject.device), allow_unused=True
            )
        weight = dout.double().numpy()
        for name, got in zip(names, computed, strict=True):
            terms = weight * exact[f"d_{name}"][0]
            value = 0.0 if got is None else float(got.double().sum())
            errors[name] = max(errors[name], _relative(value - float(terms.sum()), terms))
    return errors


def _relative(difference: float, terms: np.ndarray[Any, Any]) -> float:
    scale = float(np.abs(terms).sum())
    if scale == 0:
        return 0.0 if difference == 0 else np.inf
    return abs(difference) / scale if np.isfinite(difference) else np.inf
