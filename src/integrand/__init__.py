"""You write the gradient; integrand writes the activation: derived, certified, fast.

import integrand as ig

act = ig.activation("xielu")
y = act(x)
layer = act.module()
swap = ig.swap(model, act)
"""

from integrand import models, nn
from integrand.activation import Activation, activation, derive
from integrand.errors import (
    BackendError,
    CertificationError,
    DataError,
    DerivationError,
    Error,
    SpecError,
    SwapError,
)
from integrand.models import swap
from integrand.spec import Param, Spec, names, read_spec

__version__ = "0.1.0"
__all__ = [
    "Activation",
    "BackendError",
    "CertificationError",
    "DataError",
    "DerivationError",
    "Error",
    "Param",
    "Spec",
    "SpecError",
    "SwapError",
    "activation",
    "certify",
    "derive",
    "models",
    "names",
    "nn",
    "read_spec",
    "sparsity",
    "swap",
]

models.register()


def __getattr__(name: str) -> object:
    # the oracle is imported when it is first used: `import integrand` stays light
    if name == "certify":
        from integrand.certificate import certify

        return certify
    if name == "sparsity":
        import integrand.sparsity

        return integrand.sparsity
    raise AttributeError(f"module 'integrand' has no attribute '{name}'")
