"""f and g of a candidate as one lookup in torch, the cheapest way to train with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from integrand.errors import Error
from integrand.search.profile import REACH, Profile

POINTS = 1 << 16
_EDGE = REACH / (1 + REACH)
_MIDDLE = (POINTS - 1) / 2


class Tabulated:
    """f and g at the nearest of 65,536 points that are uniform in x / (1 + |x|).

    They are 3e-5 (1 + |x|)^2 apart: for |x| from 0.01 to 100 less than the numbers of bf16. Beyond
    1e4 they are those at 1e4, at nan and infinities those at 0. Parameters stand at the profile's
    values.

    Raises:
        Error: f or g is not finite somewhere.
    """

    def __init__(self, p: Profile) -> None:
        u = np.linspace(-1, 1, POINTS).clip(-_EDGE, _EDGE)
        x = u / (1 - np.abs(u))
        with np.errstate(all="ignore"):
            f, g = (torch.tensor(y, dtype=torch.float32) for y in (p.value(x), p.slope(x)))
        if not (f.isfinite() & g.isfinite()).all():
            raise Error(
                f"f and g must be finite for |x| <= 1e4 in fp32 to train, got '{p.spec.name}'"
            )
        self.f, self.g = f, g
        self.place = torch.empty(0, dtype=torch.int32)

    def __call__(self, x: Tensor, slope: Tensor) -> None:
        """x becomes f(x) and `slope` g(x); both contiguous."""
        # nothing is allocated: fresh pages would take as long as the arithmetic
        torch.abs(x, out=slope).add_(1)
        x.div_(slope).nan_to_num_(0.0).mul_(_MIDDLE).add_(_MIDDLE + 0.5)
        place = self.place.resize_(x.numel()).copy_(x.view(-1))
        torch.index_select(self.f, 0, place, out=x.view(-1))
        torch.index_select(self.g, 0, place, out=slope.view(-1))
