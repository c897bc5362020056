"""Prints the polynomials of `integrand.derivation.coefficients`.

Each is the Chebyshev interpolant, in 60 digits, of the analytic function beside it, cut at the
first degree whose relative error, times its share in the result, is below 2**-(precision + 4).
Redirect the output to `src/integrand/derivation/coefficients.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpmath import mp

mp.dps = 60
Function = Callable[[Any], Any]


def _atanh(v: Any) -> Any:
    s = mp.sqrt(v)
    return (2 * mp.atanh(s) - 2 * s) / (s * v)


def _odd(f: Function) -> Function:
    """(f(sqrt v) - sqrt v) / v**1.5 for an odd f with slope 1 at 0."""
    return lambda v: (f(mp.sqrt(v)) - mp.sqrt(v)) / mp.sqrt(v) ** 3


def _erfcx(t: Any) -> Any:
    a = 2 * (1 + t) / (1 - t)
    return (1 + 2 * a) * mp.exp(a * a) * mp.erfc(a)


def _ndtr(t: Any) -> Any:
    a = 3 * (1 + t) / (1 - t)
    return (1 + mp.mpf("1.5") * a) * mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


# name: (what it is, function, interval, its share in the result)
FITS: dict[str, tuple[str, Function, tuple[Any, Any], float]] = {
    "SIN": (
        "(sin(r) - r + r^3/6) / r^5 of z = r^2 on [0, (pi/4)^2]",
        lambda v: (mp.sin(mp.sqrt(v)) / mp.sqrt(v) - 1 + v / 6) / v**2,
        (0, mp.mpf("0.6169")),
        0.005,
    ),
    "COS": (
        "(cos(r) - 1 + r^2/2) / r^4 of z = r^2 on [0, (pi/4)^2]",
        lambda v: (mp.cos(mp.sqrt(v)) - 1 + v / 2) / v**2,
        (0, mp.mpf("0.6169")),
        0.02,
    ),
    "EXP": (
        "(exp(r) - 1 - r) / r^2 on [-log(2)/2, log(2)/2]",
        lambda v: (mp.expm1(v) - v) / v**2,
        (mp.mpf("-0.34658"), mp.mpf("0.34658")),
        0.125,
    ),
    "LOG": (
        "(2 atanh(s) - 2s) / s^3 of z = s^2 on [0, 0.0295]",
        _atanh,
        (0, mp.mpf("0.0295")),
        0.01,
    ),
    "LOG1P": ("(2 atanh(s) - 2s) / s^3 of z = s^2 on [0, 1/4]", _atanh, (0, mp.mpf("0.25")), 1.0),
    "SINH": ("(sinh(x) - x) / x^3 of z = x^2 on [0, 1]", _odd(mp.sinh), (0, 1), 1.0),
    "ATAN": (
        "(atan(x) - x) / x^3 of z = x^2 on [0, 0.1716]",
        _odd(mp.atan),
        (0, mp.mpf("0.1716")),
        1.0,
    ),
    "ERF": (
        "(erf(x)/x - 2/sqrt(pi)) / x^2 of z = x^2 on [0, 1]",
        lambda v: (mp.erf(mp.sqrt(v)) / mp.sqrt(v) - 2 / mp.sqrt(mp.pi)) / v,
        (0, 1),
        1.0,
    ),
    "ERFCX": (
        "(1 + 2a) exp(a^2) erfc(a) of t = (a - 2)/(a + 2) on [-0.85, 1)",
        _erfcx,
        (mp.mpf("-0.85"), 1),
        1.0,
    ),
    "NDTR": (
        "(1 + 1.5a) exp(a^2/2) ndtr(-a) of t = (a - 3)/(a + 3) on [-0.75, 1)",
        _ndtr,
        (mp.mpf("-0.75"), 1),
        1.0,
    ),
    "LOGCOSH": (
        "log(cosh(x)) / x^2 of z = x^2 on [0, 1]",
        lambda v: mp.log(mp.cosh(mp.sqrt(v))) / v,
        (0, 1),
        1.0,
    ),
}


def interpolate(f: Function, low: Any, high: Any, n: int) -> list[Any]:
    """Ascending coefficients in v of the degree n-1 interpolant at n Chebyshev points."""
    centre, half = (low + high) / mp.mpf(2), (high - low) / mp.mpf(2)
    angles = [mp.pi * (2 * k + 1) / (2 * n) for k in range(n)]
    values = [f(centre + half * mp.cos(a)) for a in angles]
    c = [
        2 * mp.fsum(v * mp.cos(j * a) for v, a in zip(values, angles, strict=True)) / n
        for j in range(n)
    ]
    c[0] /= 2
    # clenshaw on polynomials in v; u = (v - centre) / half
    b1: list[Any] = [mp.mpf(0)] * n
    b2: list[Any] = [mp.mpf(0)] * n
    for j in range(n - 1, 0, -1):
        b1, b2 = _step(b1, b2, centre, half, 2, c[j]), b1
    return _step(b1, b2, centre, half, 1, c[0])


def _step(b1: list[Any], b2: list[Any], centre: Any, half: Any, k: int, c: Any) -> list[Any]:
    shifted = [mp.mpf(0), *b1[:-1]]
    new = [k * (s - centre * b) / half - d for s, b, d in zip(shifted, b1, b2, strict=True)]
    new[0] += c
    return new


def fit(f: Function, low: Any, high: Any, precision: int, share: float) -> list[Any]:
    """The shortest interpolant with relative error below 2**-(precision + 4) / share."""
    points = [low + (high - low) * (1 - mp.cos(mp.pi * (k + 0.37) / 80)) / 2 for k in range(80)]
    exact = [f(p) for p in points]
    for n in range(2, 60):
        coefficients = interpolate(f, low, high, n)
        error = max(
            abs(mp.polyval(coefficients[::-1], p) / e - 1)
            for p, e in zip(points, exact, strict=True)
        )
        if error < mp.mpf(2) ** -(precision + 4) / share:
            return coefficients
    raise ValueError("no convergence")


def main() -> None:
    print('"""Polynomials of the primitives: fp32 and fp64, ascending.\n')
    print("Printed by benchmarks/fit_primitives.py: Chebyshev interpolants in 60 digits.")
    print('"""\n')
    for name, (meaning, f, (low, high), share) in FITS.items():
        print(f"# {meaning}")
        print(f"{name}: dict[int, tuple[float, ...]] = {{")
        for bits, precision, digits in ((32, 24, 10), (64, 53, 17)):
            row = fit(f, mp.mpf(low), mp.mpf(high), precision, share)
            print(f"    {bits}: (")
            for c in row:
                print(f"        {float(mp.nstr(c, digits))!r},")
            print("    ),")
        print("}\n")


if __name__ == "__main__":
    main()
