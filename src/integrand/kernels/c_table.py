"""A certified table as C: static coefficients and a branch-free look-up."""

from __future__ import annotations

from collections.abc import Sequence

from integrand.derivation.table import Table


class _Printer:
    """Numbers and polynomials of one floating type."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.type, self.suffix = ("float", "f") if bits == 32 else ("double", "")
        self.mantissa, self.bias = (23, 127) if bits == 32 else (52, 1023)

    def number(self, value: float) -> str:
        # below the smallest denormal C would warn
        value = 0.0 if self.bits == 32 and abs(value) < 2.0**-150 else value
        text = f"{value:.9g}" if self.bits == 32 else f"{value:.17g}"
        return (text if any(m in text for m in ".en") else text + ".0") + self.suffix

    def power(self, exponent: int) -> str:
        return f"0x1p{exponent}{self.suffix}"

    def sided(self, negative: float, positive: float) -> str:
        """The coefficient of the side of 0 on which x lies: a blend, cheaper than a gather."""
        if negative == positive:
            return self.number(positive)
        return f"(left ? {self.number(negative)} : {self.number(positive)})"

    def polynomial(self, name: str, variable: str, terms: Sequence[str]) -> list[str]:
        lines = [f"  {self.type} {name} = {terms[-1]};"]
        lines += [f"  {name} = {name} * {variable} + {term};" for term in terms[-2::-1]]
        return lines

    def sides(self, name: str, variable: str, rows: Sequence[Sequence[float]]) -> list[str]:
        width = max(len(row) for row in rows)
        low, high = ([*row, *[0.0] * (width - len(row))] for row in rows)
        terms = [self.sided(*pair) for pair in zip(low, high, strict=True)]
        return self.polynomial(name, variable, terms)


def table_function(table: Table, bits: int, log: str) -> str:
    """The body of `real table(real x)`, with `log` the name of the logarithm of that type.

    The segment and the place in it are read off the number's bits: exact, and the same on every
    machine.
    """
    c = _Printer(bits)
    t, unsigned = c.type, f"uint{bits}_t"
    width, segments = len(table.middle[0][0]), len(table.middle[0])
    low, high = c.power(table.lo), c.power(table.hi)
    step = c.mantissa - table.split
    rows = [", ".join(map(c.number, row)) for side in table.middle for row in side]
    falls = any(len(row) > 1 for row in table.far)
    text = [
        "",
        f"  static const {t} middle[] = {{\n    " + ",\n    ".join(rows) + "};",
        f"  const bool left = x < {c.number(0.0)};",
        f"  const {t} a = left ? -x : x;",
        f"  const bool small = a < {low}, large = a >= {high};",
        f"  const {t} inside = a >= {low} ? (a < {high} ? a : {low}) : {low};",
        f"  const {unsigned} u = bits{bits}(inside);",
        f"  const int32_t segment = (int32_t)((u >> {step}) - (({unsigned}){c.bias + table.lo} << "
        f"{table.split}));",
        f"  const {unsigned} rest = (u & ((({unsigned})1 << {step}) - 1u)) << {table.split};",
        f"  const {t} v = float{bits}((({unsigned}){c.bias} << {c.mantissa}) | rest);",
        f"  const {t} t = {c.number(2.0)} * v - {c.number(3.0)};",
        f"  const int32_t row = ((left ? 0 : {segments}) + segment) * {width};",
        *c.polynomial("pm", "t", [f"middle[row + {k}]" for k in range(width)]),
        f"  const {t} q = (small ? a : {c.number(0.0)}) * {c.power(-table.lo)};",
        *c.sides("pn", "q", table.near),
        *([f"  const {t} w = large ? {high} / a : {c.number(0.0)};"] if falls else []),
        *c.sides("pf", "w", table.far),
        *_growth(table, c, log),
        "  const " + t + " outer = large ? g + pf : pm;",
        "  const " + t + " value = small ? x * pn : outer;",
        "  return a == a ? value : x;",
    ]
    return "\n".join(text)


def _growth(table: Table, c: _Printer, log: str) -> list[str]:
    """What is absent on both sides is not computed: 0 * inf never arises at an infinity."""
    top = "FLT_MAX" if c.bits == 32 else "DBL_MAX"
    a2, a1, single, product = zip(*table.growth, strict=True)
    zero = c.number(0.0)
    lines = [
        f"  const {c.type} b = large ? (a < {top} ? a : {top}) : {c.number(1.0)};",
        f"  const {c.type} s = left ? -b : b;",
    ]
    if any(single) or any(product):
        lines.append(f"  const {c.type} l = {log}(b);")
    terms = [
        f"{c.sided(*pair)}{factor}"
        for pair, factor in ((a2, " * s"), (a1, ""), (product, " * l"))
        if any(pair)
    ]
    lines.append(f"  const {c.type} slope = {' + '.join(terms) or zero};")
    # the outer factor brings the infinity, unless this side does not grow
    lines.append(f"  const {c.type} steep = slope == {zero} ? {zero} : slope * (large ? x : s);")
    if not any(single):
        return [*lines, f"  const {c.type} g = steep;"]
    rate = c.sided(*single)
    return [
        *lines,
        f"  const {c.type} reach = slope == {zero} ? (a > b ? a : l) : l;",
        f"  const {c.type} slow = {rate} == {zero} ? {zero} : {rate} * reach;",
        f"  const {c.type} g = steep + slow;",
    ]
