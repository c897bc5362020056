"""Quadrature of declared texts: smooth stretches, singular ends, and what no rule settles on."""

import pytest
from mpmath import mp

from integrand.derivation.quadrature import quad


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(24):
        yield


@pytest.mark.parametrize(
    ("function", "stops", "exact"),
    [
        (lambda t: mp.exp(t), (0, 1, 2), lambda: mp.e**2 - 1),
        (lambda t: 1 / (1 + t * t), (16, 32), lambda: mp.atan(32) - mp.atan(16)),
        # Gauss-Legendre does not settle at these ends
        (lambda t: mp.sqrt(t), (0, 1), lambda: mp.mpf(2) / 3),
        (lambda t: mp.log(t), (0, 1), lambda: mp.mpf(-1)),
        (lambda t: mp.exp(t), (-mp.inf, 0), lambda: mp.mpf(1)),
    ],
)
def test_to_twenty_digits(function, stops, exact):
    assert abs(quad(function, [mp.mpf(s) for s in stops], mp) / exact() - 1) < mp.mpf("1e-20")


def test_smooth_stretches_are_cheap():
    asked = []
    quad(lambda t: asked.append(t) or mp.tanh(t), [mp.mpf(2), mp.mpf(4)], mp)
    assert len(asked) <= 84  # 12, 24 and 48 nodes
