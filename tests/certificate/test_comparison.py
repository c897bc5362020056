from __future__ import annotations

import numpy as np
import pytest
import torch

from integrand.certificate.comparison import MOST_BROKEN, Rule, compare
from integrand.certificate.formats import format_of


@pytest.mark.parametrize("wrong", [False, True])
def test_multiprecision_stops_where_enough_is_broken(wrong: bool) -> None:
    """With fp64 of no use every point is asked for, but not once some hundred are wrong."""
    x = np.linspace(1, 2, 1000)
    asked = []

    def exact(t: float) -> float:
        asked.append(t)
        return t + wrong

    ones, unknown = np.ones(1000), np.full(1000, np.inf)
    rule, fmt = Rule(ulps=1.0, term=0.0), format_of(torch.bfloat16)
    found = compare("f", fmt, rule, x, x, x, unknown, ones, 1.0, exact)
    assert len(asked) == found.by_multiprecision == (MOST_BROKEN if wrong else 1000)
    assert found.undecided == 1000 - len(asked)
    assert found.broken.sum() == MOST_BROKEN * wrong
    # those asked for are from everywhere
    assert max(asked) > x[-65]
