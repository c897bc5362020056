"""The C functions a kernel calls: the core, written here, and primitives traced from the table."""

from __future__ import annotations

from typing import Any

from integrand.derivation import coefficients
from integrand.derivation.primitives import PRIMITIVES, horner
from integrand.derivation.table import Table
from integrand.kernels.c_table import table_function
from integrand.kernels.c_trace import Body, Trace, Value

# exp: x = n log 2 + r; the first part of log 2 is short, so that n times it is exact. Below `low`
# the result is 0 without a product that underflows, which costs a processor 100 cycles
_EXP = """
  const {t} clamped = x > {high} ? {high} : (x < {low} ? {zero} : x);
  const {t} n_shifted = clamped * {log2e} + {rounding};
  const {t} n = n_shifted - {rounding};
  const {t} r = (clamped - n * {ln2_high}) - n * {ln2_low};
{lines}
  const {t} value = scale{bits}({p}, n_shifted);
  return x < {low} ? {zero} : value;"""

# log: x = 2^k m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s) with s = (m - 1)/(m + 1)
_LOG = """
  const bool tiny = x < {tiny};
  const uint{bits}_t u = bits{bits}(tiny ? x * {up} : x) + {offset};
  const {t} k = ({t})((int32_t)(u >> {mantissa}) - {bias}) - (tiny ? {shift} : {zero});
  const {t} m = float{bits}((u & {mask}) + {root});
  const {t} f = m - {one};
  const {t} s = f / (m + {one});
  const {t} z = s * s;
{lines}
  const {t} half = {half} * f * f;
  const {t} tail = half - (s * (half + z * {p}) + k * {ln2_low});
  const {t} finite = k * {ln2_high} - (tail - f);
  const {t} positive = x == INFINITY ? x : finite;
  return x > {zero} ? positive : (x == {zero} ? -INFINITY : NAN);"""

_CONSTANTS: dict[int, dict[str, Any]] = {
    32: {
        "high": 89.0,
        "low": -104.0,
        "log2e": 1.44269504088896341,
        "rounding": 12582912.0 + 254.0,
        "ln2_high": 0.693145751953125,
        "ln2_low": 1.42860682030941723212e-6,
        "tiny": 2.0**-126,
        "up": 2.0**25,
        "shift": 25.0,
        "mantissa": 23,
        "bias": 127,
        "offset": "0x4afb0du",
        "mask": "0x7fffffu",
        "root": "0x3f3504f3u",
    },
    64: {
        "high": 710.0,
        "low": -746.0,
        "log2e": 1.44269504088896341,
        "rounding": 6755399441055744.0 + 2046.0,
        "ln2_high": 6.93147180369123816490e-01,
        "ln2_low": 1.90821492927058770002e-10,
        "tiny": 2.0**-1022,
        "up": 2.0**54,
        "shift": 54.0,
        "mantissa": 52,
        "bias": 1023,
        "offset": "0x95f619980c433ull",
        "mask": "0xfffffffffffffull",
        "root": "0x3fe6a09e667f3bcdull",
    },
}

# pow through double; the exponent's parity gives the sign of a power of a negative number
_POW = """
  const double base = x, q = p, side = base < 0.0 ? -1.0 : 1.0;
  const double magnitude = exp_64(q * log_64(side * base));
  const double rest = q - rint(q);
  /* 1 for even q, -1 for odd, nan between: by arithmetic, which vectorises where selects do not */
  const double parity = 1.0 - 4.0 * fabs(q * 0.5 - rint(q * 0.5)) + sqrt(-rest * rest);
  const double value = base < 0.0 ? magnitude * parity : magnitude;
  return ({t})(q == 0.0 ? 1.0 : value);"""

_NATIVE = {
    32: {"sqrt": "sqrtf", "abs": "fabsf", "rint": "rintf"},
    64: {"sqrt": "sqrt", "abs": "fabs", "rint": "rint"},
}


class Functions:
    """The functions called so far, in the order in which C needs them.

    Where results are rounded to fewer bits than 64, `rounded`, a power is exp(p log x) in double:
    good to 1e-13, and fit for vectors. Elsewhere it is the C library's.
    """

    def __init__(self, rounded: bool = True) -> None:
        self.rounded = rounded
        self.text: dict[str, str] = {}
        self.periodic = False
        self._fast = True

    def exact(self) -> Functions:
        """The same, with the C library's sin and cos, right for every argument but scalar."""
        other = Functions(self.rounded)
        other.text, other._fast = self.text, False
        return other

    def __call__(self, what: Any, bits: int) -> str:
        """The C name of a primitive, `pow` or a table, defined on first use."""
        native = _NATIVE[bits].get(what) if isinstance(what, str) else None
        if what in ("sin", "cos"):
            return self._periodic(what, bits)
        if what == "pow" and bits == 64 and not self.rounded:
            native = "pow"
        if native is not None:
            return native
        name = f"{what}_{bits}" if isinstance(what, str) else f"table_{what.name}_{bits}"
        if name not in self.text:
            body = self._table(what, bits) if isinstance(what, Table) else self._body(what, bits)
            type_ = "float" if bits == 32 else "double"
            second = f", {type_} p" if what == "pow" else ""
            self.text[name] = f"INLINE {type_} {name}({type_} x{second}) {{{body}\n}}"
        return name

    def _periodic(self, name: str, bits: int) -> str:
        if not self._fast:
            # float converts to double and back on the way
            return name
        self.periodic = True
        if "sin_cos" not in self.text:
            self.text["sin_cos"] = _sin_cos()
        return f"{name}_fast"

    def _table(self, table: Table, bits: int) -> str:
        return table_function(table, bits, self("log", bits))

    def _body(self, name: str, bits: int) -> str:
        match name:
            case "exp":
                return self._core(_EXP, bits, coefficients.EXP)
            case "log":
                return self._core(_LOG, bits, coefficients.LOG)
            case "pow":
                self("exp", 64)
                self("log", 64)
                return _POW.format(t="float" if bits == 32 else "double")
        definition = PRIMITIVES[name].definition
        assert definition is not None
        trace = Body(bits, self)
        result = definition(trace, Value(trace, "x"))
        return "".join(f"\n  {line}" for line in [*trace.lines(result), f"return {result.name};"])

    def _core(self, template: str, bits: int, polynomial: dict[int, tuple[float, ...]]) -> str:
        trace = Trace(bits, self)
        values: dict[str, Any] = {"zero": 0.0, "half": 0.5, "one": 1.0, **_CONSTANTS[bits]}
        values = {k: trace.literal(v) if isinstance(v, float) else v for k, v in values.items()}
        if template is _EXP:
            r = Value(trace, "r")
            p = (r + r * r * horner(polynomial[bits], r)) + 1.0
        else:
            p = horner(polynomial[bits], Value(trace, "z"))
        lines = "\n".join(f"  {line}" for line in trace.lines(p))
        return template.format(t=trace.type, bits=bits, lines=lines, p=p.name, **values)


# Cody and Waite: pi/2 in parts of 33 bits, exact times n below 2^20; what they miss goes on as tail
_SIN_COS = """/* sin and cos of |x| <= 1e6, nan beyond; r + tail = x - n pi/2 */
INLINE double quadrant_64(double x, uint64_t turn) {{
  const double n_shifted = x * 0.63661977236758138 + 6755399441055744.0;
  const double n = n_shifted - 6755399441055744.0;
  const uint64_t q = bits64(n_shifted) + turn;
  const double a = x - n * 1.57079632673412561417e+00;
  const double w = n * 6.07710050630396597660e-11;
  const double b = a - w;
  const double c = n * 2.02226624871116645580e-21;
  const double missed = (((a - b) - w) - c) - n * 8.47842766036889956997e-32;
  const double r = b + missed;
  const double tail = (b - r) + missed;
  const double z = r * r;
{lines}
  const double v = z * r;
  const double sine = r - ((z * (0.5 * tail - v * {s}) - tail) + v * 1.66666666666666657415e-01);
  const double half = 0.5 * z, one = 1.0 - half;
  const double cosine = one + (((1.0 - one) - half) + (z * z * {c} - r * tail));
  const double value = (q & 1) != 0 ? cosine : sine;
  const double within = fabs(x) <= 1e6 ? value : NAN;
  return float64(bits64(within) ^ ((q & 2) << 62));
}}

INLINE double sin_fast(double x) {{ return quadrant_64(x, 0); }}
INLINE double cos_fast(double x) {{ return quadrant_64(x, 1); }}"""


def _sin_cos() -> str:
    trace = Trace(64, Functions())
    z = Value(trace, "z")
    s, c = horner(coefficients.SIN[64], z), horner(coefficients.COS[64], z)
    lines = "\n".join(f"  {line}" for line in trace.lines(s, c))
    return _SIN_COS.format(lines=lines, s=s.name, c=c.name)
