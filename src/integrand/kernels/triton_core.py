"""The functions a Triton kernel calls: the core, written here, and primitives from the table.

The core does not use Triton's own fp32 `exp`, `log`, `sqrt` and `sin`: on a GPU they are
approximations that flush denormals to zero. `quick` is the core for bf16: an exp by the GPU's `ex2`
(relative error 2^-22) after one rounded product, so exp(x) is off by at most 2^-22 + |x| 2^-24, far
below the 2^-9 that bf16 rounds away. An H200 moves a bf16 element in the time in which it issues
about 30 instructions, and an exact exp alone takes 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from integrand.derivation import coefficients
from integrand.derivation.primitives import PRIMITIVES, horner
from integrand.derivation.table import Table
from integrand.kernels.triton_trace import Body, Trace, Value

# x = n log 2 + r; 2^n in two exact factors, so that a denormal result is rounded once
_EXP = """
x_in = tl.where(x > {high}, {high}, tl.where(x < {low}, {low}, x))
n_shifted = x_in * 1.4426950408889634 + {rounding}
n = n_shifted - {rounding}
r = (x_in - n * {ln2_high}) - n * {ln2_low}
{lines}
u = n_shifted.to(tl.uint{bits}, bitcast=True)
a = u >> 1
first = (a << {mantissa}).to(tl.float{bits}, bitcast=True)
second = ((u - a) << {mantissa}).to(tl.float{bits}, bitcast=True)
return {p} * first * second"""

# ex2 flushes denormal results; 2^-64 of a result 64 octaves higher is one, rounded
_EXP_QUICK = """
t = x * 1.4426950408889634
low = t < -100.0
e = tl.exp2(tl.where(low, t + 64.0, t))
return tl.where(low, e * 5.421010862427522e-20, e)"""

# x = 2^k m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s) with s = (m - 1) / (m + 1)
_LOG = """
tiny = x < {tiny}
u = tl.where(tiny, x * {up}, x).to(tl.uint{bits}, bitcast=True) + {offset}
k = ((u >> {mantissa}).to(tl.int32) - {bias}).to(tl.float{bits}) - tl.where(tiny, {shift}, 0.0)
m = ((u & {mask}) + {root}).to(tl.float{bits}, bitcast=True)
f = m - 1.0
s = {quotient}
z = s * s
{lines}
half = 0.5 * f * f
tail = half - (s * (half + z * {p}) + k * {ln2_low})
finite = k * {ln2_high} - (tail - f)
positive = tl.where(x < float("inf"), finite, x)
outside = tl.where(x == 0.0, float("-inf"), float("nan"))
return tl.where(x > 0.0, positive, outside)"""

_CONSTANTS: dict[int, dict[str, Any]] = {
    32: {
        "high": "89.0",
        "low": "-104.0",
        "rounding": repr(12582912.0 + 254.0),
        "ln2_high": "0.693145751953125",
        "ln2_low": "1.42860682030941723212e-6",
        "tiny": repr(2.0**-126),
        "up": repr(2.0**25),
        "shift": "25.0",
        "mantissa": 23,
        "bias": 127,
        "offset": "0x4AFB0D",
        "mask": "0x7FFFFF",
        "root": "0x3F3504F3",
    },
    64: {
        "high": "710.0",
        "low": "-746.0",
        "rounding": repr(6755399441055744.0 + 2046.0),
        "ln2_high": "6.93147180369123816490e-01",
        "ln2_low": "1.90821492927058770002e-10",
        "tiny": repr(2.0**-1022),
        "up": repr(2.0**54),
        "shift": "54.0",
        "mantissa": 52,
        "bias": 1023,
        "offset": "0x95F619980C433",
        "mask": "0xFFFFFFFFFFFFF",
        "root": "0x3FE6A09E667F3BCD",
    },
}

# beyond 2^22 (2^51) x is whole and x + c would round to even numbers
_RINT = """
near = tl.abs(x) < {limit}
inside = tl.where(near, x, 0.0)
return tl.where(near, (inside + {shift}) - {shift}, x)"""

# the exponent's parity, 1 or -1, nan between, is the sign of a power of a negative number
_POWER = """
{wide}
{magnitude}
half = p * 0.5
odd = tl.abs(half - {rint}(half)) > 0.25
sign = tl.where({rint}(p) == p, tl.where(odd, -1.0, 1.0), float("nan"))
value = tl.where(p == 0.0, 1.0, tl.where(x < 0.0, magnitude * sign, magnitude))
return value{back}"""
_POWER_64 = """if INTERPRETED:
    magnitude = {own}
else:
    magnitude = libdevice.pow(tl.abs(x), p)"""

# where a result far below 1 is added to 1: one that `ex2` flushes does not count
_EXP_FLUSHED = "return tl.exp2(x * 1.4426950408889634)"

_RECIPROCAL = """if INTERPRETED:
    return 1.0 / x
else:
    return libdevice.fast_dividef(1.0, x)"""

# (exp(x) - 1 - x) / x^2 on [-1/2, 1/2] to 9e-7
_EXPM1MX = (0.5, 0.1666627746, 0.04166618058, 0.008395553053, 0.001396660952)


def _near_0_quick(x: Any) -> Any:
    return x * x * horner(_EXPM1MX, x)


def _expm1_quick(o: Any, x: Any) -> Any:
    return o.where(o.abs(x) < 0.5, x + _near_0_quick(x), o.exp_flushed(x) - 1.0)


def _expm1mx_quick(o: Any, x: Any) -> Any:
    # beyond 45 the linear term is below half an ulp; dropping it keeps inf - inf away
    rest = o.where(x > 45.0, 0.0, -1.0 - x)
    return o.where(o.abs(x) < 0.5, _near_0_quick(x), o.exp_flushed(x) + rest)


def _expm1mx_left_quick(o: Any, x: Any) -> Any:
    return o.where(x > -0.5, _near_0_quick(x), o.exp_flushed(x) + (-1.0 - x))


# Phi(-a) exp(a^2/2) / r for r = 1 / (1 + 0.3 a), a in [0, 14.5], to 1.7e-7
_TAIL = (0.1196320073, 0.120712135, 0.1001759561, 0.1276917402)
_TAIL += (-0.05203394851, 0.2045567011, -0.1561583941, 0.03542372109)


def _ndtr_quick(o: Any, x: Any) -> Any:
    r = o.reciprocal(1.0 + 0.3 * o.abs(x))
    # written as in the density, which then shares it; x^2 of a bf16 number is exact
    tail = o.exp((-0.5 * x) * x) * (r * horner(_TAIL, r))
    return o.where(x < 0, tail, 1.0 - tail)


def _sigmoid_quick(o: Any, x: Any) -> Any:
    e = o.exp(-o.abs(x))
    return o.where(x < 0, e, 1.0) * o.reciprocal(1.0 + e)


_QUICK = {
    "ndtr": _ndtr_quick,
    "sigmoid": _sigmoid_quick,
    "expm1": _expm1_quick,
    "expm1_left": _expm1_quick,
    "expm1mx": _expm1mx_quick,
    "expm1mx_left": _expm1mx_left_quick,
}


class Functions:
    """The functions called so far, in the order in which Python needs them."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.text: dict[str, str] = {}
        self._tables: dict[Table, int] = {}
        self.constants: list[float] = []

    def __call__(self, what: Any, bits: int) -> str:
        """The source name of a primitive, `pow` or a table, defined on first use."""
        if what == "sqrt":
            return "tl.sqrt_rn" if bits == 32 else "tl.sqrt"
        if what == "exp" and self.quick and bits == 32:
            what = "exp_quick"
        name = f"{what}_{bits}" if isinstance(what, str) else f"table_{what.name}"
        if name not in self.text:
            body = self._table(what, bits) if isinstance(what, Table) else self._body(what, bits)
            extra = ", tables_ptr" if isinstance(what, Table) else ", p" if what == "pow" else ""
            lines = "\n    ".join(line for line in body.splitlines() if line)
            self.text[name] = f"@triton.jit\ndef {name}(x{extra}):\n    {lines}\n"
        return name

    def _body(self, name: str, bits: int) -> str:
        match name:
            case "exp":
                return self._core(_EXP, bits, coefficients.EXP)
            case "exp_quick":
                return _EXP_QUICK
            case "exp_flushed":
                return _EXP_FLUSHED
            case "reciprocal":
                return _RECIPROCAL
            case "log":
                return self._core(_LOG, bits, coefficients.LOG)
            case "sin" | "cos":
                back = ".to(tl.float32)" if bits == 32 else ""
                return f"return tl.{name}(x.to(tl.float64)){back}"
            case "rint":
                limit, shift = (2.0**22, 1.5 * 2.0**23) if bits == 32 else (2.0**51, 1.5 * 2.0**52)
                return _RINT.format(limit=limit, shift=shift)
            case "pow":
                return self._power(bits)
        definition = PRIMITIVES[name].definition
        if self.quick and bits == 32:
            definition = _QUICK.get(name, definition)
        assert definition is not None
        trace = Body(bits, self.quick, self)
        result = definition(trace, Value(trace, "x"))
        return "\n".join([*trace.lines(result), f"return {trace.text(result)}"])

    def _core(self, template: str, bits: int, polynomial: dict[int, tuple[float, ...]]) -> str:
        trace = Trace(bits, self.quick, self, prefix="p")
        if template is _EXP:
            r = Value(trace, "r")
            p = (r + r * r * horner(polynomial[bits], r)) + 1.0
        else:
            p = horner(polynomial[bits], Value(trace, "z"))
        quotient = trace.division.format("f", "(m + 1.0)")
        values = {"lines": "\n".join(trace.lines(p)), "p": trace.text(p), "quotient": quotient}
        return template.format(bits=bits, **values, **_CONSTANTS[bits])

    def _power(self, bits: int) -> str:
        """exp(p log x), for fp32 in double; in fp64 that loses |p log x| ulp, so a GPU's library
        does it there, which the interpreter does not have."""
        inner = 32 if self.quick and bits == 32 else 64
        exp, log, rint = (self(name, inner) for name in ("exp", "log", "rint"))
        own = f"{exp}(p * {log}(tl.abs(x)))"
        converted = inner != bits
        return _POWER.format(
            wide="x = x.to(tl.float64)\np = p.to(tl.float64)" if converted else "",
            magnitude=_POWER_64.format(own=own) if bits == 64 else f"magnitude = {own}",
            rint=rint,
            back=".to(tl.float32)" if converted else "",
        )

    def _table(self, table: Table, bits: int) -> str:
        if table not in self._tables:
            self._tables[table] = len(self.constants)
            self.constants += [c for side in table.middle for row in side for c in row]
        return _table_body(table, bits, self._tables[table], self("log", bits))


def _table_body(table: Table, bits: int, start: int, log: str) -> str:
    """The value of a certified table; the segment is read off the number's bits, which is exact."""
    trace = Trace(bits, False, lambda what, _: str(what))
    mantissa, bias = (23, 127) if bits == 32 else (52, 1023)
    top = "3.4028235e38" if bits == 32 else "1.7976931348623157e308"
    width, segments = len(table.middle[0][0]), len(table.middle[0])
    step = mantissa - table.split
    low, high = trace.text(2.0**table.lo), trace.text(2.0**table.hi)
    first = (bias + table.lo) << table.split

    def polynomial(name: str, variable: str, terms: Sequence[str]) -> list[str]:
        lines = [f"{name} = {terms[-1]}"]
        return lines + [f"{name} = {name} * {variable} + {term}" for term in terms[-2::-1]]

    def sided(negative: float, positive: float) -> str:
        a, b = trace.text(negative), trace.text(positive)
        return a if a == b else f"tl.where(left, {a} + zero, {b})"

    def sides(rows: Sequence[Sequence[float]]) -> list[str]:
        length = max(map(len, rows))
        negative, positive = ([*row, *[0.0] * (length - len(row))] for row in rows)
        return [sided(*pair) for pair in zip(negative, positive, strict=True)]

    body = [
        "zero = x * 0.0",
        "zero = tl.where(zero == 0.0, zero, 0.0)",
        "left = x < 0.0",
        "a = tl.abs(x)",
        f"small = a < {low}",
        f"large = a >= {high}",
        f"inside = tl.where((a >= {low}) & (a < {high}), a, {low})",
        f"u = inside.to(tl.int{bits}, bitcast=True)",
        f"segment = (u >> {step}).to(tl.int32) - {first}",
        f"rest = (u & {(1 << step) - 1}) << {table.split}",
        f"v = (rest | {bias << mantissa}).to(tl.float{bits}, bitcast=True)",
        "t = 2.0 * v - 3.0",
        f"row_ptr = tables_ptr + {start} + (tl.where(left, 0, {segments}) + segment) * {width}",
        *polynomial("middle", "t", [f"tl.load(row_ptr + {k})" for k in range(width)]),
        f"q = tl.where(small, a, 0.0) * {trace.text(2.0**-table.lo)}",
        *polynomial("near", "q", sides(table.near)),
        *([f"w = {high} / tl.where(large, a, {high})"] if len(table.far[0]) > 1 else []),
        *polynomial("far", "w", sides(table.far)),
        *_growth(table, sided, log, top),
        "value = tl.where(small, x * near, tl.where(large, growth + far, middle))",
        "return tl.where(a == a, value, x)",
    ]
    return "\n".join(body)


def _growth(table: Table, sided: Any, log: str, top: str) -> list[str]:
    """What is absent on both sides is not computed: 0 * inf never arises at an infinity."""
    a2, a1, single, product = zip(*table.growth, strict=True)
    lines = [
        f"b = tl.where(large, tl.where(a < {top}, a, {top}), 1.0)",
        "s = tl.where(left, -b, b)",
    ]
    if any(single) or any(product):
        lines.append(f"log_b = {log}(b)")
    terms = [
        f"{sided(*pair)}{factor}"
        for pair, factor in ((a2, " * s"), (a1, ""), (product, " * log_b"))
        if any(pair)
    ]
    lines.append(f"slope = {' + '.join(terms) or 'zero'} + zero")
    # the outer factor brings the infinity, unless this side does not grow
    lines.append("steep = tl.where(slope == 0.0, 0.0, slope * tl.where(large, x, s))")
    if not any(single):
        return [*lines, "growth = steep"]
    return [
        *lines,
        "reach = tl.where((slope == 0.0) & (a > b), a, log_b)",
        f"rate = {sided(*single)} + zero",
        "growth = steep + tl.where(rate == 0.0, 0.0, rate * reach)",
    ]
