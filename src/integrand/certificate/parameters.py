"""Parameter gradients of an implementation against fp64 sums of the program's partials."""

from __future__ import annotations

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
    """Per parameter: |computed - exact| / sum |dout * df/dtheta| over `count` normal draws of x and
    of the incoming gradient, both rounded to the format."""
    generator = torch.Generator().manual_seed(0)
    x, dout = (torch.randn(count, generator=generator).to(fmt.dtype) for _ in range(2))
    names = [n for n in truth.values if f"d_{n}" in truth.program.outputs]
    if not names:
        return {}
    leaves = {k: v.detach().clone().requires_grad_() for k, v in subject.params.items()}
    y = subject.call(x.to(subject.device), leaves)
    computed = torch.autograd.grad(
        y, [leaves[n] for n in names], dout.to(subject.device), allow_unused=True
    )
    weight = dout.double().numpy()
    exact = truth.fp64(x.double().numpy(), [f"d_{n}" for n in names])
    errors = {}
    for name, got in zip(names, computed, strict=True):
        terms = weight * exact[f"d_{name}"][0]
        scale = float(np.abs(terms).sum())
        difference = abs((0.0 if got is None else float(got.double().sum())) - float(terms.sum()))
        errors[name] = difference / scale if scale else (0.0 if difference == 0 else np.inf)
    return errors
