"""A certified table as C: static coefficients and a branch-free look-up."""

from __future__ import annotations

from integrand.derivation.table import Table


def table_function(table: Table, bits: int, log: str) -> str:
    """The body of `real table(real x)`, with `log` the name of the logarithm of that type.

    The segment and the place in it are read off the number's bits: exact, and the same on every
    machine.
    """
    type_, suffix = ("float", "f") if bits == 32 else ("double", "")
    mantissa, bias = (23, 127) if bits == 32 else (52, 1023)
    unsigned = f"uint{bits}_t"
    width = len(table.middle[0][0])
    segments = len(table.middle[0])
    low, high = f"0x1p{table.lo}{suffix}", f"0x1p{table.hi}{suffix}"

    def number(value: float) -> str:
        # below the smallest denormal C would warn
        value = 0.0 if bits == 32 and abs(value) < 2.0**-150 else value
        text = f"{value:.9g}" if bits == 32 else f"{value:.17g}"
        return (text if any(m in text for m in ".en") else text + ".0") + suffix

    def array(name: str, rows: list[list[float]]) -> str:
        cells = ",\n    ".join(", ".join(number(v) for v in row) for row in rows)
        return f"  static const {type_} {name}[] = {{\n    {cells}}};"

    def polynomial(name: str, of: str, offset: str, count: int) -> list[str]:
        lines = [f"  {type_} {of} = {name}[{offset} + {count - 1}];"]
        variable = {"near": "q", "middle": "t", "far": "w"}[name]
        for k in range(count - 2, -1, -1):
            lines.append(f"  {of} = {of} * {variable} + {name}[{offset} + {k}];")
        return lines

    near = _square([list(row) for row in table.near])
    far = _square([list(row) for row in table.far])
    middle = [list(row) for side in table.middle for row in side]
    step = mantissa - table.split
    text = [
        "",
        array("near", near),
        array("middle", middle),
        array("far", far),
        array("growth", [list(row) for row in table.growth]),
        f"  const {type_} a = x < 0 ? -x : x;",
        "  const int32_t side = x < 0 ? 0 : 1;",
        f"  const bool small = a < {low}, large = a >= {high};",
        f"  const {type_} inside = a >= {low} ? (a < {high} ? a : {low}) : {low};",
        f"  const {unsigned} u = bits{bits}(inside);",
        f"  const int32_t segment = (int32_t)((u >> {step}) - (({unsigned}){bias + table.lo} << "
        f"{table.split}));",
        f"  const {unsigned} rest = (u & ((({unsigned})1 << {step}) - 1u)) << {table.split};",
        f"  const {type_} v = float{bits}((({unsigned}){bias} << {mantissa}) | rest);",
        f"  const {type_} t = {number(2.0)} * v - {number(3.0)};",
        f"  const int32_t row = (side * {segments} + segment) * {width};",
        *polynomial("middle", "pm", "row", width),
        f"  const {type_} q = (small ? a : {number(0.0)}) * 0x1p{-table.lo}{suffix};",
        f"  const int32_t first = side * {len(near[0])};",
        *polynomial("near", "pn", "first", len(near[0])),
        f"  const {type_} w = large ? {high} / a : {number(0.0)};",
        f"  const int32_t last = side * {len(far[0])};",
        *polynomial("far", "pf", "last", len(far[0])),
        *_growth(table, type_, bits, log),
        "  return a == a ? (small ? x * pn : (large ? g + pf : pm)) : x;",
    ]
    return "\n".join(text)


def _square(rows: list[list[float]]) -> list[list[float]]:
    width = max(len(row) for row in rows)
    return [row + [0.0] * (width - len(row)) for row in rows]


def _growth(table: Table, type_: str, bits: int, log: str) -> list[str]:
    """Terms absent on both sides are not computed: 0 * inf never arises at an infinity."""
    top = "FLT_MAX" if bits == 32 else "DBL_MAX"
    a2, a1, single, product = (any(row[k] for row in table.growth) for k in range(4))
    lines = [f"  const {type_} b = large ? (a < {top} ? a : {top}) : 1;"]
    lines.append(f"  const {type_} s = x < 0 ? -b : b;")
    if single or product:
        lines.append(f"  const {type_} l = {log}(b);")
    slope = " + ".join(
        text
        for used, text in (
            (a2, "growth[4 * side] * s"),
            (a1, "growth[4 * side + 1]"),
            (product, "growth[4 * side + 3] * l"),
        )
        if used
    )
    lines.append(f"  const {type_} slope = {slope or '0'};")
    # the outer factor brings the infinity, unless this side does not grow
    lines.append(f"  {type_} g = slope == 0 ? 0 : slope * (large ? x : s);")
    if single:
        lines.append(
            "  g += growth[4 * side + 2] == 0 ? 0 : growth[4 * side + 2] * "
            "(slope == 0 && a > b ? a : l);"
        )
    return lines
