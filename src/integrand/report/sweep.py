"""Error at every half-precision input, in order of value, condensed for a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from integrand.certificate.formats import format_of
from integrand.certificate.judgement import judge
from integrand.certificate.subject import subject_of
from integrand.certificate.truth import truth_of

BINS = 340
# what stands for an infinite error, so that the data stays plain JSON numbers
CEILING = 1e38


def sweep(
    act: Any,
    dtype: torch.dtype = torch.bfloat16,
    params: Mapping[str, float] | None = None,
    candidate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    impl: str = "auto",
    bins: int = BINS,
) -> dict[str, Any]:
    """Errors in ulps over all finite patterns of a half-precision dtype, ascending, in `bins`
    groups of neighbours of equal size.

    Returns `label dtype params points edges` (the value at which each group begins, and the last)
    and for `f` and `df` the lists `worst` and `mean` of the groups. Units are those of `certify`.
    """
    fmt = format_of(dtype)
    values = {**act.spec.values(), **(params or {})}
    values = {k: float(torch.tensor(v, dtype=fmt.parameter_dtype)) for k, v in values.items()}
    truth = truth_of(act, values)
    subject = subject_of(
        act, fmt, values, impl=impl, compiled=False, candidate=candidate, device="cpu"
    )
    patterns = fmt.patterns()
    x = patterns.double().numpy()
    order = np.lexsort((~np.signbit(x), x))
    order = order[np.isfinite(x[order])]
    y, dx = subject(patterns)
    groups = np.array_split(np.arange(len(order)), bins)
    ascending = x[order]
    edges = [float(ascending[g[0]]) for g in groups] + [float(ascending[-1])]
    errors = {}
    for name, computed in (("f", y), ("df", dx)):
        error = np.minimum(judge(truth, fmt, name, ascending, computed[order]).error, CEILING)
        errors[name] = {
            "worst": [float(error[g].max()) for g in groups],
            "mean": [float(error[g].mean()) for g in groups],
        }
    return {
        "label": subject.label,
        "dtype": fmt.name,
        "params": values,
        "points": len(order),
        "edges": edges,
        **errors,
    }
