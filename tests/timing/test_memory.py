from __future__ import annotations

import torch
import torch.nn.functional as F

from integrand.timing.memory import saved_bytes


def test_saved_bytes_of_known_functions() -> None:
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    assert saved_bytes(F.silu, x) == 2
    # x and sigmoid(x), each stored once although the product keeps both
    assert saved_bytes(lambda t: t * torch.sigmoid(t), x) == 4
    assert saved_bytes(lambda t: t + 1, x) == 0
