"""The primitive table: each unary function's exact meaning, its numerical form and its error.

A definition `(o, x) -> value` is written once over a namespace `o` and the values' own operators
`+ - * / < <= > >= &` and unary minus, so that numpy arrays, torch tensors and the C tracer all run
through it. `o.bits` (32 or 64) selects polynomial lengths. Every namespace supplies the core:

    exp log sqrt abs rint sin cos isnan isinf        unary
    const minimum maximum where pow table
    octave              x, k -> (n, 2^(n-k)), n the integer next to x / log 2

A name that ends in `_left` is the same function for arguments that are never positive: cheaper.
`signs.py` finds them.

Plain floats mix freely with values. Two rules keep autograd right when it differentiates through a
definition: both branches of every `where` stay finite on data they are not meant for, and no
identity holds only through rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from integrand.derivation import coefficients as c
from integrand.derivation.meanings import MEANINGS

Definition = Callable[[Any, Any], Any]

LEFT = "_left"
LOG2 = 0.69314718055994530942
# below the first, exp(x) - 1 is -1; n times the second is exact; the third is the rest of log 2
_LOG2_PARTS = {
    32: (-80.0, 0.693145751953125, 1.42860682030941723212e-6),
    64: (-600.0, 6.93147180369123816490e-01, 1.90821492927058770002e-10),
}
_QUARTER = {
    32: (0.785398185253143310546875, -2.1855694143368964e-08),
    64: (0.78539816339744830962, 3.0616169978683830e-17),
}


@dataclass(frozen=True)
class Primitive:
    """A unary function: `meaning(mp, x)` is its exact value, `definition` its numerical form.

    `definition` is None for the core, which namespaces supply. `ulp32` and `ulp64` bound the error
    in units in the last place of the result, denormal results included, for a core accurate to
    1 ulp; they were measured and then rounded up.
    """

    name: str
    meaning: Callable[[Any, Any], Any]
    definition: Definition | None
    ulp32: float
    ulp64: float


def call(o: Any, name: str, x: Any) -> Any:
    """The primitive `name` of x: the namespace's own where it has one, else the definition."""
    native = getattr(o, name, None)
    if native is not None:
        return native(x)
    definition = PRIMITIVES[name].definition
    assert definition is not None, f"the core operation {name} is missing from {type(o).__name__}"
    return definition(o, x)


def horner(coefficients: tuple[float, ...], x: Any) -> Any:
    """c0 + c1 x + c2 x^2 + ..."""
    result: Any = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _magnitude(o: Any, x: Any) -> Any:
    # unlike abs it has slope 1 at 0, which odd functions built on it need
    return o.where(x < 0, -x, x)


def _inside(o: Any, x: Any, low: float, high: float) -> tuple[Any, Any]:
    """Whether low < x < high, and x itself there, 0 elsewhere."""
    near = (x > low) & (x < high)
    return near, o.where(near, x, 0.0)


def _split_exp(o: Any, x: Any) -> tuple[Any, Any, Any, Any, Any]:
    """(n, s, t, rest, w) with exp(x) / 2 = s + s (t - rest) + w, s = 2^(n-1) and t - rest what
    remains of x after n log 2, t exact. Where n = 0, t is x and w keeps its relative accuracy.

    Half of exp(x): 2^n is not finite just below its overflow.
    """
    low, ln2_high, ln2_low = _LOG2_PARTS[o.bits]
    x = o.where(x < low, low, x)
    n, s = o.octave(x, 1)
    t, rest = x - n * ln2_high, n * ln2_low
    r = t - rest
    return n, s, t, rest, (s * (r * r)) * horner(c.EXP[o.bits], r)


def expm1(o: Any, x: Any) -> Any:
    """exp(x) - 1."""
    _, s, t, rest, w = _split_exp(o, _below_overflow(o, x))
    return 2.0 * (w + ((s * t + (s - 0.5)) - s * rest))


def expm1mx(o: Any, x: Any) -> Any:
    """expm1(x) - x, with relative accuracy near 0."""
    low, ln2_high, _ = _LOG2_PARTS[o.bits]
    x = _below_overflow(o, x)
    n, s, t, rest, w = _split_exp(o, x)
    # x / 2 as t / 2 + n log(2) / 2: every product and sum is then exact next to n = 0
    d = s - 0.5
    half = w + ((d * t + (d - n * (0.5 * ln2_high))) - s * rest)
    return 2.0 * half + (o.where(x < low, low, x) - x)


def _split_exp_left(o: Any, x: Any) -> tuple[Any, Any, Any]:
    """(s, r, w) with exp(x) = s + s r + w and s = 2^n, for x <= 0.

    log 2 in one piece: the error of n log 2 is multiplied by 2^n, which leaves a fifth of an ulp.
    """
    low, _, _ = _LOG2_PARTS[o.bits]
    x = o.where(x < low, low, x)
    n, s = o.octave(x, 0)
    r = x - n * LOG2
    return s, r, (s * (r * r)) * horner(c.EXP[o.bits], r)


def expm1_left(o: Any, x: Any) -> Any:
    """exp(x) - 1 for x <= 0."""
    s, r, w = _split_exp_left(o, x)
    return w + (s * r + (s - 1.0))


def expm1mx_left(o: Any, x: Any) -> Any:
    """expm1(x) - x for x <= 0."""
    if o.bits == 64:
        return expm1mx(o, x)
    s, r, w = _split_exp_left(o, x)
    return w + (s * r + ((s - 1.0) - x))


def _below_overflow(o: Any, x: Any) -> Any:
    # just beyond the overflow of exp: inf - inf never arises
    high = 89.0 if o.bits == 32 else 710.0
    return o.where(x > high, high, x)


def _xmlog1p_near(o: Any, x: Any) -> Any:
    """x - log1p(x) on [-2/3, 1.5]: log1p(x) = 2 atanh(s) with s = x / (x + 2)."""
    s = x / (x + 2.0)
    z = s * s
    return s * (x - z * horner(c.LOG1P[o.bits], z))


def log1p(o: Any, x: Any) -> Any:
    """log(1 + x)."""
    near, t = _inside(o, x, -0.65, 1.5)
    return o.where(near, t - _xmlog1p_near(o, t), o.log(o.where(near, 1.0, x + 1.0)))


def xmlog1p(o: Any, x: Any) -> Any:
    """x - log1p(x), with relative accuracy near 0."""
    near, t = _inside(o, x, -0.65, 1.5)
    far = o.where(near, 1.0, x)
    # at inf the difference would be inf - inf
    bounded = o.where(far > 1e30, 0.0, far)
    return o.where(near, _xmlog1p_near(o, t), (far - bounded) + (bounded - o.log(bounded + 1.0)))


def _half_exp(o: Any, a: Any) -> tuple[Any, Any, float]:
    """(e, large, scale): exp(a)/2 is e * scale where large, else e/2; reaches the largest finite.

    The shift is exact, as a - shift is for shift <= a <= 2 shift.
    """
    shift, scale = (
        (64.0, 3.1175745404058084e27) if o.bits == 32 else (512.0, 1.1422067932698783e222)
    )
    large = a > shift
    return o.exp(o.where(large, a - shift, a)), large, scale


def sinh(o: Any, x: Any) -> Any:
    """(exp(x) - exp(-x)) / 2."""
    near, t = _inside(o, x, -1.0, 1.0)
    z = t * t
    a = _magnitude(o, x)
    e, large, scale = _half_exp(o, a)
    far = o.where(large, e * scale, e * 0.5 - 0.5 / e)
    return o.where(near, t + t * (z * horner(c.SINH[o.bits], z)), o.where(x < 0, -far, far))


def cosh(o: Any, x: Any) -> Any:
    """(exp(x) + exp(-x)) / 2."""
    e, large, scale = _half_exp(o, _magnitude(o, x))
    return o.where(large, e * scale, e * 0.5 + 0.5 / e)


def tanh(o: Any, x: Any) -> Any:
    """m / (m + 2) with m = expm1(2 |x|), beyond 1/2 as 1 - 2 / (m + 2)."""
    a = _magnitude(o, x)
    m = expm1(o, 2.0 * o.where(a > 20.0, 20.0, a))
    q = 1.0 / (m + 2.0)
    r = o.where(a > 0.5, 1.0 - 2.0 * q, m * q)
    return o.where(x < 0, -r, r)


def atan(o: Any, x: Any) -> Any:
    """Inverse tangent: about 0, as pi/4 + atan((a-1)/(a+1)) about 1, as pi/2 - atan(1/a) beyond."""
    a = _magnitude(o, x)
    middle, far = a > 0.4142, a > 2.4142
    top = o.where(far, -1.0, o.where(middle, a - 1.0, a))
    t = top / o.where(far, a, o.where(middle, a + 1.0, 1.0))
    z = t * t
    # pi/4 as a float and the rest of it
    quarter, rest = _QUARTER[o.bits]
    high = o.where(far, 2 * quarter, o.where(middle, quarter, t * 0.0))
    low = o.where(far, 2 * rest, o.where(middle, rest, t * 0.0))
    r = high + (t + (t * (z * horner(c.ATAN[o.bits], z)) + low))
    return o.where(x < 0, -r, r)


def xmatan(o: Any, x: Any) -> Any:
    """x - atan(x), with relative accuracy near 0: of y = tan(atan(x) / 2), x y^2 + 2 (y - atan y),
    twice."""
    near, t = _inside(o, x, -2.4142, 2.4142)
    u = t / (1.0 + o.sqrt(1.0 + t * t))
    v = u / (1.0 + o.sqrt(1.0 + u * u))
    z = v * v
    bent = t * (u * u) + 2.0 * (u * z - 2.0 * (v * (z * horner(c.ATAN[o.bits], z))))
    far = o.where(near, 3.0, x)
    return o.where(near, bent, far - atan(o, far))


def asinh(o: Any, x: Any) -> Any:
    """log(x + sqrt(x^2 + 1))."""
    a = _magnitude(o, x)
    # beyond it log(2a) is exact to rounding, and a^2 might overflow
    large = a > (16384.0 if o.bits == 32 else 268435456.0)
    b = o.where(large, 1.0, a)
    near = log1p(o, b + b * b / (1.0 + o.sqrt(1.0 + b * b)))
    r = o.where(large, o.log(o.where(large, a, 1.0)) + LOG2, near)
    return o.where(x < 0, -r, r)


def _exp_minus_square(o: Any, a: Any, half: bool) -> Any:
    """exp(-a^2), or exp(-a^2/2) with half, to 2 ulp for 0 <= a <= 39.

    a = h + d with h short enough that h^2 is exact: no rounding error is amplified by a^2.
    """
    grid = 256.0 if o.bits == 32 else 1048576.0
    h = o.rint(a * grid) * (1.0 / grid)
    square, d = h * h, (a - h) * (a + h)
    if half:
        square, d = square * 0.5, d * 0.5
    series = (1.0, -1.0, 0.5, -1 / 6, 1 / 24) if o.bits == 32 else (1.0, -1.0, 0.5, -1 / 6)
    return o.exp(-square) * horner(series, d)


def _erfc_far(o: Any, a: Any) -> Any:
    """erfc(a) for a >= 0.35."""
    a = o.where(a > 29.0, 29.0, a) if o.bits == 64 else o.where(a > 15.0, 15.0, a)
    t = (a - 2.0) / (a + 2.0)
    scaled = horner(c.ERFCX[o.bits], t) / (1.0 + 2.0 * a)
    return _exp_minus_square(o, a, half=False) * scaled


def _erf_near(o: Any, x: Any) -> Any:
    """erf(x) on [-1, 1]."""
    z = x * x
    return x + x * (0.12837916709551257390 + z * horner(c.ERF[o.bits], z))


def erf(o: Any, x: Any) -> Any:
    """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    near, t = _inside(o, x, -1.0, 1.0)
    far = 1.0 - _erfc_far(o, o.where(near, 1.0, _magnitude(o, x)))
    return o.where(near, _erf_near(o, t), o.where(x < 0, -far, far))


def erfc(o: Any, x: Any) -> Any:
    """1 - erf(x), with relative accuracy in the right tail."""
    near, t = _inside(o, x, -0.5, 0.5)
    far = _erfc_far(o, o.where(near, 1.0, _magnitude(o, x)))
    return o.where(near, 1.0 - _erf_near(o, t), o.where(x < 0, 2.0 - far, far))


def ndtr(o: Any, x: Any) -> Any:
    """The normal distribution function, with relative accuracy in the left tail."""
    near, t = _inside(o, x, -0.5, 0.5)
    a = o.where(near, 1.0, _magnitude(o, x))
    a = o.where(a > 40.0, 40.0, a) if o.bits == 64 else o.where(a > 15.0, 15.0, a)
    t_far = (a - 3.0) / (a + 3.0)
    scaled = horner(c.NDTR[o.bits], t_far) / (1.0 + 1.5 * a)
    tail = _exp_minus_square(o, a, half=True) * scaled
    central = 0.5 + 0.5 * _erf_near(o, t * 0.70710678118654752440)
    return o.where(near, central, o.where(x < 0, tail, 1.0 - tail))


def sigmoid(o: Any, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    e = o.exp(-_magnitude(o, x))
    return o.where(x < 0, e, 1.0) / (1.0 + e)


def softplus(o: Any, x: Any) -> Any:
    """log(1 + exp(x))."""
    e = o.exp(-_magnitude(o, x))
    return o.where(x < 0, 0.0, x) + (e - _xmlog1p_near(o, e))


def logcosh(o: Any, x: Any) -> Any:
    """log(cosh(x))."""
    near, t = _inside(o, x, -1.0, 1.0)
    z = t * t
    a = _magnitude(o, x)
    e = o.exp(-2.0 * a)
    far = (a - LOG2) + (e - _xmlog1p_near(o, e))
    return o.where(near, z * horner(c.LOGCOSH[o.bits], z), far)


def softplus0(o: Any, x: Any) -> Any:
    """softplus(x) - log 2, with relative accuracy near 0."""
    half = 0.5 * o.where(x < -1.0, 0.0, x)
    return o.where(x < -1.0, softplus(o, x) - LOG2, half + logcosh(o, half))


def softsign(o: Any, x: Any) -> Any:
    """x / (1 + |x|)."""
    t = o.where(x > 1e30, 1e30, o.where(x < -1e30, -1e30, x))
    return t / (1.0 + _magnitude(o, t))


def relu(o: Any, x: Any) -> Any:
    """max(x, 0), with slope 0 at 0."""
    return o.where(x <= 0, 0.0, x)


def sign(o: Any, x: Any) -> Any:
    """-1, 0 or 1."""
    return o.where(x > 0, 1.0, o.where(x < 0, -1.0, x * 0.0))


# name: (definition, bound in fp32, bound in fp64), in ulps
_ROWS: dict[str, tuple[Definition | None, float, float]] = {
    "exp": (None, 1, 1),
    "log": (None, 1, 1),
    "sqrt": (None, 0.5, 0.5),
    "abs": (None, 0, 0),
    "rint": (None, 0, 0),
    "sin": (None, 1, 1),
    "cos": (None, 1, 1),
    "expm1": (expm1, 3, 3),
    "log1p": (log1p, 3, 3),
    "tanh": (tanh, 3, 3),
    "sinh": (sinh, 3, 3),
    "cosh": (cosh, 3, 3),
    "atan": (atan, 3, 3),
    "asinh": (asinh, 3, 3),
    "erf": (erf, 3, 3),
    "erfc": (erfc, 4, 4),
    "sigmoid": (sigmoid, 3, 3),
    "softplus": (softplus, 3, 3),
    "softsign": (softsign, 3, 3),
    "relu": (relu, 0, 0),
    "sign": (sign, 0, 0),
    "ndtr": (ndtr, 4, 4),
    "logcosh": (logcosh, 3, 3),
    "expm1mx": (expm1mx, 3, 3),
    "expm1_left": (expm1_left, 3, 3),
    "expm1mx_left": (expm1mx_left, 3, 3),
    "xmlog1p": (xmlog1p, 3, 3),
    "xmatan": (xmatan, 6, 6),
    "softplus0": (softplus0, 3, 3),
}

PRIMITIVES: dict[str, Primitive] = {
    name: Primitive(name, MEANINGS[name.removesuffix(LEFT)], *row) for name, row in _ROWS.items()
}
