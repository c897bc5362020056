from __future__ import annotations

import math

import mpmath
import pytest

from integrand.certificate.limits import limit


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x * x, math.inf),
        (lambda x: -mpmath.log(abs(x)), -math.inf),
        (lambda x: 1 / x, 0.0),
        (lambda x: mpmath.atan(abs(x)), math.pi / 2),
        (lambda x: mpmath.sin(x), math.nan),
        (lambda x: x * mpmath.sin(x), math.nan),
        (lambda x: 1 / mpmath.log(abs(x)), None),
        (lambda x: -math.inf, -math.inf),
        (lambda x: float(x * x) if abs(x) < 2.0**500 else math.inf, math.inf),
        (lambda x: math.inf if abs(x) < 2.0**300 else -math.inf, math.nan),
    ],
    ids=[
        "square",
        "log",
        "inverse",
        "atan",
        "sine",
        "growing-sine",
        "slow",
        "overflow",
        "late",
        "torn",
    ],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_limits_are_recognised(function, expected, sign) -> None:  # type: ignore[no-untyped-def]
    got = limit(lambda x: function(mpmath.mpf(x)), sign)
    assert got == expected or (expected != expected and got is not None and got != got)
