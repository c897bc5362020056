"""FATReLU: an activation that jumps, which no gradient declares."""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from integrand.errors import BackendError, SpecError

_NAME = re.compile(r"fatrelu\((?P<threshold>[^()]+)\)")


class FATReLULayer(nn.Module):
    """y = x if x >= threshold else 0, elementwise; no parameters."""

    is_integrand_activation = True

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def values(self) -> dict[str, Tensor]:
        return {}

    def forward(self, x: Tensor) -> Tensor:
        # compared in fp32 or wider: bf16 has no 0.1, and a NaN stays one
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return torch.where(wide < self.threshold, 0, x)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:g}"


@dataclass(frozen=True, slots=True)
class FATReLU:
    """f(x) = x if x >= threshold else 0, with threshold > 0 rounded to fp32; f' is 1 or 0.

    It serves where an Activation does: called on tensors, in a block, in a run. Its name says all
    of it: `jump(act.name)` makes it again. In gives NaN for NaN, 0 for -inf, and exact values in
    every dtype. Source: arXiv:2402.13516, eq. 3.

    Raises:
        SpecError: a threshold that is not above 0 and finite.
    """

    threshold: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.threshold < math.inf:
            raise SpecError(
                "the threshold of FATReLU must be above 0 and finite, got"
                f" {self.threshold}; at 0 it is relu"
            )
        object.__setattr__(self, "threshold", torch.tensor(self.threshold).item())

    @property
    def name(self) -> str:
        return f"fatrelu({self.threshold:.9g})"

    def __call__(self, x: Tensor) -> Tensor:
        return self.module()(x)

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> FATReLULayer:
        return FATReLULayer(self.threshold)

    def source(self, target: str = "torch") -> str:
        """Text of one readable file with f, f' and a layer, which needs integrand no more."""
        if target != "torch":
            raise BackendError(f"FATReLU has source for torch alone, got '{target}'")
        return _SOURCE.replace("THRESHOLD", repr(self.threshold))


def jump(name: str) -> FATReLU | None:
    """The activation of a name such as fatrelu(0.01); None for a name of another kind."""
    if (found := _NAME.fullmatch(name)) is None:
        return None
    try:
        return FATReLU(float(found["threshold"]))
    except ValueError:
        raise SpecError(f"fatrelu takes a number, got '{name}'; write fatrelu(0.01)") from None


_SOURCE = textwrap.dedent('''\
    """FATReLU: f(x) = x if x >= t else 0, t = THRESHOLD (arXiv:2402.13516, eq. 3)."""

    import torch


    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.where(below(x), 0, x)


    def df(x: torch.Tensor) -> torch.Tensor:
        return torch.where(below(x), 0, torch.ones_like(x))


    def below(x: torch.Tensor) -> torch.Tensor:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return wide < THRESHOLD


    class FATReLU(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return f(x)
''')
