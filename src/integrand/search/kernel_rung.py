"""The kernel of a candidate: derived, compiled, certified at every bf16 input, and timed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from integrand.activation import Activation, derive
from integrand.certificate import certify
from integrand.search.candidate import Candidate
from integrand.search.profile import profile
from integrand.search.rung import Rung
from integrand.timing import paired, ratio, saved_bytes


@dataclass(frozen=True)
class KernelRung:
    """What running a candidate costs in bf16, parameters at their initial values.

    `forward_ns` and `both_ns`, forward with backward, are nanoseconds per element on one thread of
    this machine; `forward_ratio` and `both_ratio` their medians over F.silu's in the same rounds,
    the latter the "score". `saved_bytes` per element is what autograd keeps. `certified` is 1 where
    the certificate holds, else 0: a defect of our derivation, not of the candidate. `max_ulp_f` and
    `max_ulp_df` are its worst errors, left out where they are infinite or f cancels next to 0.

    Raises:
        Error: there is no antiderivative, or no kernel.
    """

    # large enough that a call's own cost, most of all that of parameters, does not decide
    shape: tuple[int, int] = (512, 2048)
    rounds: int = 7

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        act = derive(candidate.spec)
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
        seconds = self._seconds(act.module(), x)
        found = {"saved_bytes": saved_bytes(act.module(), x), **_certificate(act)}
        for name in ("forward", "both"):
            middle, *_ = ratio(seconds[f"own {name}"], seconds[f"silu {name}"])
            found[f"{name}_ratio"] = middle
            found[f"{name}_ns"] = 1e9 * min(seconds[f"own {name}"]) / x.numel()
        return {"score": found["both_ratio"], **found}

    def _seconds(self, layer: torch.nn.Module, x: torch.Tensor) -> dict[str, list[float]]:
        """By call, seconds per round; the calls take turns."""
        calls = {}
        for who, call in (("own", layer), ("silu", F.silu)):
            leaf = x.clone().requires_grad_()
            wanted = [leaf, *(layer.parameters() if who == "own" else ())]
            calls[f"{who} forward"] = torch.no_grad()(lambda f=call: f(x))
            calls[f"{who} both"] = lambda f=call, leaf=leaf, wanted=wanted: torch.autograd.grad(
                f(leaf), wanted, x, allow_unused=True
            )
        return paired(calls, self.rounds, warmup=2)


def _certificate(act: Activation) -> dict[str, float]:
    if _cancels(act):
        return {"certified": 0.0}
    cert = certify(act, torch.bfloat16, thorough=False)
    worst = {"max_ulp_f": cert.max_ulp_f, "max_ulp_df": cert.max_ulp_df}
    finite = {name: ulp for name, ulp in worst.items() if math.isfinite(ulp)}
    return {"certified": float(cert.ok), **finite}


def _cancels(act: Activation) -> bool:
    """Whether f next to its anchor at 0 is off by 2 bf16 ulp: there f(x) = x g(x) to first order.

    Antiderivatives of shifted primitives are differences like softplus(x + 1) - softplus(1). No
    certificate holds then, and it would take a minute to decide at thousands of points.
    """
    spec = act.spec
    if spec.kind != "gradient" or spec.anchor != (0, 0):
        return False
    x = torch.tensor([s * 2.0**-k for k in range(30, 100) for s in (-1, 1)])
    slope = torch.tensor(profile(spec).slope(x.double().numpy()))
    steep = slope.abs() > 1e-3
    exact, found = (slope * x)[steep], act(x.bfloat16()).double()[steep]
    return not bool(((found - exact).abs() <= 2.0**-7 * exact.abs()).all())


def kernel_rung(seconds: float = 300.0, keep: float = 1.0) -> Rung:
    """Refuses what has no kernel; all others go on, since a fast one is no reason by itself."""
    return Rung("kernel", KernelRung(), seconds, keep)
