"""xIELU as other libraries write it, with its exponent clamped: the other side of an ablation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.activation import activation

EPS = -1e-6


class ClampedXIELU(nn.Module):
    """alpha_n (expm1(min(x, eps)) - x) + beta x for x <= 0, its gradient by autograd.

    The clamp makes f'(x) = beta - alpha_n on (eps, 0], where the declared gradient is beta. This is
    the formula of transformers and Megatron-LM; the parameters are those of the declared xIELU.
    """

    is_integrand_activation = True

    def __init__(
        self, alpha: float = 0.8, beta: float = 0.5, device: torch.device | str | None = None
    ) -> None:
        super().__init__()

        def raw(value: float) -> nn.Parameter:
            start = math.log(math.expm1(value))
            return nn.Parameter(torch.tensor([start], dtype=torch.float32, device=device))

        self.declared = activation("xielu")
        self.alpha_p = raw(alpha)
        self.alpha_n = raw(alpha - beta)
        self.beta = beta

    def values(self) -> dict[str, Tensor]:
        return {
            "alpha_p": F.softplus(self.alpha_p),
            "alpha_n": self.beta + F.softplus(self.alpha_n),
        }

    def forward(self, x: Tensor) -> Tensor:
        alpha_p, alpha_n = self.values().values()
        # the declared function below eps, continued as the clamp does: expm1 stays as accurate
        # under torch.compile as that of the other side
        left = x.clamp(max=EPS)
        negative = self.declared(left, alpha_p=alpha_p, alpha_n=alpha_n)
        negative = negative + (self.beta - alpha_n) * (x - left)
        return torch.where(x > 0, alpha_p * x * x + self.beta * x, negative)


@dataclass(frozen=True, slots=True)
class Clamped:
    """Makes `ClampedXIELU` modules where a catalogue entry would make its own."""

    name: str = "xielu-clamped"

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> nn.Module:
        return ClampedXIELU(device=device)
