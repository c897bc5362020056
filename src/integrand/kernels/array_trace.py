"""A namespace that runs a scalar program on names and writes it down as calls of an array library.

One set of functions serves both precisions: where a primitive's form depends on it, the written
function looks at the type of its argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.program import Program, evaluate
from integrand.derivation.table import Table
from integrand.kernels.triton_trace import Trace, Value


@dataclass(frozen=True)
class Library:
    """An array library: `name` its prefix, patterns for what is not spelt `name.function(x)`."""

    name: str
    patterns: Mapping[str, str]
    # a definition the source needs once, for what the library lacks
    helpers: Mapping[str, str]

    def pattern(self, what: str) -> str:
        return self.patterns.get(what, f"{self.name}.{what}({{}})")


class ArrayTrace(Trace):
    """The namespace for a library; `source` collects the functions that are called."""

    def __init__(self, bits: int, source: Functions) -> None:
        super().__init__(bits, True, source)
        self.library, self.source = source.library, source

    def lines(self, *results: Any) -> list[str]:
        live, stack = set(), [r for r in results if isinstance(r, Value)]
        while stack:
            value = stack.pop()
            if value not in live:
                live.add(value)
                stack += [o for o in value.operands if isinstance(o, Value)]
        for value in set(self._known.values()) - live:
            # of a branch that a constant rules out
            value.uses = 0
        return super().lines(*results)

    def text(self, value: Any) -> str:
        if isinstance(value, Value):
            return value.name
        number = float(value)
        return repr(number) if number - number == 0 else f'float("{number}")'

    def tensor(self, number: Any) -> Any:
        if isinstance(number, Value):
            return number
        return self.emit(self.library.pattern("full"), number)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if not isinstance(condition, Value):
            return a if condition else b
        if not isinstance(a, Value) and not isinstance(b, Value):
            a = self.tensor(a)
        return self.emit(f"{self.library.name}.where({{}}, {{}}, {{}})", condition, a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        return self._extreme("minimum", a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        return self._extreme("maximum", a, b)

    def _extreme(self, name: str, a: Any, b: Any) -> Value:
        return self.emit(f"{self.library.name}.{name}({{}}, {{}})", self.tensor(a), self.tensor(b))

    def pow(self, a: Any, b: Any) -> Any:
        if b in (2.0, 3.0, 4.0):
            square = a * a
            return square if b == 2.0 else square * (a if b == 3.0 else square)
        return self.emit(self.library.pattern("pow"), a, b)

    def octave(self, x: Any, k: int) -> tuple[Value, Value]:
        n = self.rint(x * 1.4426950408889634)
        return n, self._core("exp2", n - float(k) if k else n)

    def isnan(self, x: Any) -> Value:
        return self._core("isnan", x)

    def isinf(self, x: Any) -> Value:
        return self._core("isinf", x)

    def abs(self, x: Any) -> Value:
        return self._core("abs", x)

    def table(self, table: Table, u: Any) -> Value:
        return self.emit(f"_table({{}}, {self.source.table(table)})", self.tensor(u))

    def _core(self, name: str, x: Any) -> Value:
        if name in self.library.helpers:
            self.source.text[name] = self.library.helpers[name]
        return self.emit(self.library.pattern(name), self.tensor(x))

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in PRIMITIVES:
            raise AttributeError(name)
        if PRIMITIVES[name].definition is None:
            return lambda x: self._core(name, x)
        return lambda x: self.emit(f"{self.source(name, self.bits)}({{}})", self.tensor(x))


class _Body(ArrayTrace):
    """The trace of a primitive's own definition: the core is called, the rest written out."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in PRIMITIVES or PRIMITIVES[name].definition is not None:
            raise AttributeError(name)
        return super().__getattr__(name)


class Functions:
    """The functions and tables used so far; `wide` programs need those of float64 alone."""

    def __init__(self, library: Library, wide: bool) -> None:
        self.library, self.wide = library, wide
        self.text: dict[str, str] = {}
        self.tables: dict[str, str] = {}

    def __call__(self, what: Any, bits: int) -> str:
        """The source name of a primitive, written on first use."""
        name = f"_{what}"
        if name not in self.text:
            definition = PRIMITIVES[what].definition
            assert definition is not None
            bodies = [self._body(definition, b) for b in ((64,) if self.wide else (64, 32))]
            lines = [f"def {name}(x):", f'    """{(definition.__doc__ or "").splitlines()[0]}"""']
            if len(bodies) == 2 and bodies[0] != bodies[1]:
                lines.append(f"    if x.dtype == {self.library.pattern('float64')}:")
                lines += [f"        {line}" for line in bodies[0]]
            self.text[name] = "\n".join([*lines, *(f"    {line}" for line in bodies[-1])]) + "\n"
        return name

    def _body(self, definition: Callable[[Any, Any], Any], bits: int) -> list[str]:
        trace = _Body(bits, self)
        result = definition(trace, Value(trace, "x"))
        return [*trace.lines(result), f"return {trace.text(result)}"]

    def table(self, table: Table) -> str:
        """The name of a table's numbers."""
        name = f"_{table.name.upper()}"
        if name not in self.tables:
            rows = [row for side in table.middle for row in side]
            fields = {"near": table.near, "middle": rows, "far": table.far}
            fields = {name: [_short(row) for row in rows] for name, rows in fields.items()}
            fields["growth"] = [list(row) for row in table.growth]
            lines = [f"{name} = _numbers("]
            lines += [f"    lo={table.lo},", f"    hi={table.hi},", f"    split={table.split},"]
            for field, numbers in fields.items():
                lines += [f"    {field}=[", *(f"        {row}," for row in numbers), "    ],"]
            self.tables[name] = "\n".join([*lines, ")"]) + "\n"
        return name

    def scalar(
        self,
        title: str,
        program: Program,
        outputs: Iterable[str],
        names: Mapping[str, str],
        meaning: str,
    ) -> str:
        """A function of x and the parameters, called by `names`, that returns the outputs."""
        outputs = list(outputs)
        trace = ArrayTrace(64 if self.wide else 32, self)
        given = {p: Value(trace, names[p]) for p in program.params}
        values = evaluate(program, trace, Value(trace, "x"), given, outputs)
        uniform = program.uniform()
        results = [
            # what does not depend on x still has its shape
            trace.emit(f"{self.library.name}.zeros_like(x) + {{}}", v)
            if program.outputs[name] in uniform
            else v
            for name, v in zip(outputs, values, strict=True)
        ]
        if "copy" in self.library.patterns:
            # an autograd function may not return its own input
            results = [
                trace.emit(self.library.patterns["copy"], v) if v.name == "x" else v
                for v in map(trace.tensor, results)
            ]
        lines = [f'"""{meaning}."""', *trace.lines(*results)]
        returned = [trace.text(v) for v in results]
        many = ", ".join(returned) if len(returned) > 1 else f"({returned[0]},)"
        lines.append(f"return {returned[0] if outputs == ['f'] else many}")
        head = f"def {title}({', '.join(['x', *names.values()])}):"
        return "\n".join([head, *(f"    {line}" for line in lines)]) + "\n"


def _short(row: Sequence[float]) -> list[float]:
    """A polynomial's coefficients without the zeros at its end."""
    count = max((k + 1 for k, c in enumerate(row) if c), default=1)
    return list(row[:count])


TABLE = '''def _numbers(lo, hi, split, near, middle, growth, far):
    """Polynomials of a table, and what maps each of its segments to [-1, 1)."""
    count = 1 << split
    octaves = range(lo, hi)
    scale = [2.0 ** (split + 1 - e) for e in octaves for _ in range(count)]
    offset = [2.0 * (count + k) + 1.0 for _ in octaves for k in range(count)]
    numbers = {{
        "near": _columns(near),
        "middle": _columns(middle),
        "growth": _columns(growth),
        "far": _columns(far),
        "scale": {array}(scale * 2, dtype={lib64}),
        "offset": {array}(offset * 2, dtype={lib64}),
    }}
    return lo, hi, split, numbers


def _columns(rows):
    width = max(map(len, rows))
    rows = [row + [0.0] * (width - len(row)) for row in rows]
    return {array}(rows, dtype={lib64}).T


def _horner(coefficients, index, t):
    result = coefficients[-1][index]
    for k in range(len(coefficients) - 2, -1, -1):
        result = result * t + coefficients[k][index]
    return result


def _segment(a, lo, hi, split):
    """Number of the segment of a: exponent and leading mantissa bits, read off the bits."""
    if a.dtype == {float64}:
        bits, mantissa, bias = {bits64}, 52, 1023
    else:
        bits, mantissa, bias = {bits32}, 23, 127
    number = (bits >> (mantissa - split)) - ((bias + lo) << split)
    return {number}


def _table(u, table):
    """A function of u alone: for |u| < 2^lo u times a polynomial; up to 2^hi a polynomial in each
    segment; beyond, its growth a2 u^2 + a1 u + l log|u| + e u log|u| and a polynomial in 2^hi/|u|.
    """
    lo, hi, split, numbers = table
    c = {{name: {moved} for name, v in numbers.items()}}
    low, high = 2.0**lo, 2.0**hi
    a = {lib}.where(u < 0, -u, u)
    side = {side}
    near, far, infinite = a < low, a >= high, {lib}.isinf(a)
    s = {lib}.where(near, a, low)
    value = {lib}.where(near, u, 0.0) * _horner(c["near"], side, s / low)
    segment = _segment(a, lo, hi, split) + side * ((hi - lo) << split)
    inside = {lib}.where(near | far, low, a)
    t = inside * c["scale"][segment] - c["offset"][segment]
    value = {lib}.where(near, value, _horner(c["middle"], segment, t))
    # at an infinity the sign of the growth is read off a far finite point
    v = {lib}.where(far, {lib}.where(infinite, 2.0**60, a), high)
    w = {lib}.where(u < 0, -v, v)
    a2, a1, rate, entropy = (c["growth"][k][side] for k in range(4))
    log_v = {lib}.log(v)
    tail = (a2 * w + a1 + entropy * log_v) * w + rate * log_v + _horner(c["far"], side, high / v)
    grows = (c["growth"] != 0).any(0)[side]
    limit = {lib}.where(grows, {lib}.where(tail < 0, -a, a), c["far"][0][side])
    return {lib}.where(far, {lib}.where(infinite, limit, tail), value)
'''
