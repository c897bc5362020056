from __future__ import annotations

import time

import mpmath
import pytest

from integrand.certificate.context import context


@pytest.mark.parametrize("x", [2.0**20, -(2.0**20), 2.0**300, -(2.0**60) + 0.5, 3.0, -0.25])
def test_the_exponential_is_right_at_large_integers(x: float) -> None:
    mp = context()
    mp.dps = 50
    got = mp.exp(mp.mpf(x))
    reference = mpmath.MPContext()
    # from the logarithm, which needs as many digits more as the argument has
    reference.dps = 200
    log = reference.log(reference.mpf(got))
    assert abs(log - x) < reference.mpf(10) ** -45


def test_it_takes_no_time() -> None:
    mp = context()
    mp.dps = 700
    start = time.perf_counter()
    for k in range(100, 1000, 50):
        mp.exp(-(mp.mpf(2) ** k))
    # repeated squaring takes seconds in all
    assert time.perf_counter() - start < 0.5


def test_no_other_context_changes() -> None:
    before = mpmath.mp.exp
    context().dps = 99
    assert mpmath.mp.exp == before and mpmath.mp.dps != 99
