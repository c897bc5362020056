"""Which backward may keep the output alone: exact, approximate with its error stated, or none."""

from __future__ import annotations

import math
from typing import Any

import torch

from integrand.certificate.certification import certify
from integrand.kernels.rounded_output import verdict


def certify_output_only(act: Any, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """What `save="output"` gives in a dtype, at the initial parameter values.

    - `offered`: "exact", "approximate" or "refused", with the `reason` in words.
    - `gradient`: df as a function of y.
    - the numbers of `Verdict`, and `certified`: whether the certificate of the activation with this
      backward holds, its truth being the declared text in multi-precision.
    """
    row: dict[str, Any] = {"name": act.name, "dtype": str(dtype).removeprefix("torch.")}
    inverse = act.inverse
    if inverse.program is None:
        return {**row, "offered": "refused", "reason": inverse.reason}
    values = tuple(float(act.spec.params[n].init) for n in act.program.params)
    found = verdict(act.program, inverse.program, dtype, values)
    backward = act.module(save="output-approximate")
    cert = certify(act, dtype, candidate=backward, thorough=False)
    return {
        **row,
        "offered": "exact" if found.ok and cert.ok else "approximate",
        "reason": str(found) if cert.ok or not found.ok else "; ".join(cert.reasons),
        "gradient": inverse.formulas["df"],
        "params": act.spec.values(),
        "certified": cert.ok,
        **{k: _plain(v) for k, v in vars(found).items()},
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
