"""Other libraries' xIELU as candidates, with the parameter values they really use."""

from __future__ import annotations

from typing import Any

import torch


def transformers_xielu(dtype: torch.dtype = torch.bfloat16, **init: float) -> torch.nn.Module:
    """transformers' `XIELUActivation` (`alpha_p_init`, `alpha_n_init`, `beta`), or ImportError."""
    from transformers.activations import XIELUActivation

    return XIELUActivation(dtype=dtype, **init)


def xielu_values(module: Any) -> dict[str, float]:
    """The values alpha_p, alpha_n, beta of a module in transformers' parametrisation, to give as
    `params=`: its raw parameters are rounded to its dtype, so 0.8 asked for is not 0.8 in use."""
    with torch.no_grad():
        positive, negative = (
            torch.nn.functional.softplus(raw.detach().double())
            for raw in (module.alpha_p, module.alpha_n)
        )
        beta = float(module.beta)
    return {"alpha_p": float(positive), "alpha_n": beta + float(negative), "beta": beta}
