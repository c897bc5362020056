"""A namespace that runs a definition or a scalar program on names and writes it down for Triton."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.table import Table

PRODUCT = "{} * {}"
MERGED = (PRODUCT, "{} < {}", "{} <= {}", "{} > {}", "{} >= {}", "{} & {}")


class Value:
    """A name of the source; every operation on it writes a line."""

    def __init__(
        self, trace: Trace, name: str, pattern: str = "", operands: tuple[Any, ...] = ()
    ) -> None:
        self.trace, self.name, self.pattern, self.operands = trace, name, pattern, operands
        self.uses = 0

    def __add__(self, other: Any) -> Value:
        return self.trace.emit("{} + {}", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.trace.emit("{} + {}", other, self)

    def __sub__(self, other: Any) -> Value:
        return self.trace.emit("{} - {}", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.trace.emit("{} - {}", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.trace.emit("{} * {}", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.trace.emit("{} * {}", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self.trace.emit(self.trace.division, self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.trace.emit(self.trace.division, other, self)

    def __neg__(self) -> Value:
        return self.trace.emit("-{}", self)

    def __lt__(self, other: Any) -> Value:
        return self.trace.emit("{} < {}", self, other)

    def __le__(self, other: Any) -> Value:
        return self.trace.emit("{} <= {}", self, other)

    def __gt__(self, other: Any) -> Value:
        return self.trace.emit("{} > {}", self, other)

    def __ge__(self, other: Any) -> Value:
        return self.trace.emit("{} >= {}", self, other)

    def __and__(self, other: Any) -> Value:
        return self.trace.emit("{} & {}", self, other)


class Trace:
    """The namespace. `function` gives the source name of a primitive, `pow` or a table."""

    def __init__(
        self, bits: int, quick: bool, function: Callable[[Any, int], str], prefix: str = "v"
    ) -> None:
        self.bits, self._function, self._prefix = bits, function, prefix
        # Triton's own fp32 quotient is off by up to 2 ulp, which a half format does not see
        self.division = "{} / {}" if quick or bits == 64 else "tl.div_rn({}, {})"
        self._known: dict[str, Value] = {}

    def emit(self, pattern: str, *operands: Any) -> Value:
        """The value of the pattern filled with the operands; equal texts are one value."""
        text = pattern.format(*map(self.text, operands))
        if text not in self._known:
            for operand in operands:
                if isinstance(operand, Value):
                    operand.uses += 1 + (pattern.count("{0}") > 1)
            name = f"{self._prefix}{len(self._known) + 1}"
            self._known[text] = Value(self, name, pattern, operands)
        return self._known[text]

    def lines(self, *results: Any) -> list[str]:
        """The assignments; products and conditions of a single use stand where they are used."""
        for result in results:
            if isinstance(result, Value):
                result.uses += 2
        values = self._known.values()
        return [f"{v.name} = {self._line(v)}" for v in values if v.uses and not _merged(v)]

    def _line(self, value: Value) -> str:
        return value.pattern.format(*(self._operand(value, o) for o in value.operands))

    def _operand(self, parent: Value, operand: Any) -> str:
        if not isinstance(operand, Value) or not _merged(operand):
            return self.text(operand)
        text = self._line(operand)
        bare = "(" in parent.pattern or (
            operand.pattern == PRODUCT and parent.pattern in ("{} + {}", "{} - {}")
        )
        return text if bare else f"({text})"

    def text(self, value: Any) -> str:
        """A name or literal."""
        if isinstance(value, Value):
            return value.name
        number = float(value)
        if not math.isfinite(number):
            return f'float("{number}")'
        if self.bits == 32 and abs(number) < 2.0**-126:
            # Triton would take a smaller literal for a double
            number = 0.0
        return repr(number)

    def const(self, decimal: str) -> float:
        return float(decimal)

    def tensor(self, number: Any) -> Any:
        """The number as a value."""
        # a literal alone is fp32 in Triton whatever the precision around it
        full = f"tl.full((), {self.text(number)}, tl.float{self.bits})"
        return number if isinstance(number, Value) else self.emit(full)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if not isinstance(condition, Value):
            return a if condition else b
        if not isinstance(a, Value) and not isinstance(b, Value):
            a = self.tensor(a)
        return self.emit("tl.where({}, {}, {})", condition, a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller; nan if either is nan."""
        if not isinstance(a, Value) and not isinstance(b, Value):
            return min(a, b)
        a, b = (a, b) if isinstance(a, Value) else (b, a)
        return self.emit("tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})", a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger; nan if either is nan."""
        if not isinstance(a, Value) and not isinstance(b, Value):
            return max(a, b)
        a, b = (a, b) if isinstance(a, Value) else (b, a)
        return self.emit("tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})", a, b)

    def isnan(self, x: Any) -> Value:
        return self.emit("{0} != {0}", x)

    def isinf(self, x: Any) -> Value:
        return self.emit('tl.abs({}) == float("inf")', x)

    def abs(self, x: Any) -> Value:
        return self.emit("tl.abs({})", self.tensor(x))

    def pow(self, a: Any, b: Any) -> Any:
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a**b
        if b in (2.0, 3.0, 4.0):
            square = a * a
            return square if b == 2.0 else square * (a if b == 3.0 else square)
        name = self._function("pow", self.bits)
        return self.emit(f"{name}({{}}, {{}})", self.tensor(a), self.tensor(b))

    def octave(self, x: Any, k: int) -> tuple[Value, Value]:
        # the last bits of the rounding sum hold n and the bias: shifted, they are the exponent
        mantissa, bias = (23, 127 - k) if self.bits == 32 else (52, 1023 - k)
        shift = 1.5 * 2.0**mantissa + bias
        shifted = self.emit("{} * {} + {}", x, 1.4426950408889634, shift)
        bits = f"({{}}.to(tl.uint{self.bits}, bitcast=True) << {mantissa})"
        power = self.emit(f"{bits}.to(tl.float{self.bits}, bitcast=True)", shifted)
        return self.emit("{} - {}", shifted, shift), power

    def exp_flushed(self, x: Any) -> Value:
        """exp(x), 0 where that is denormal."""
        return self.emit(f"{self._function('exp_flushed', self.bits)}({{}})", x)

    def reciprocal(self, x: Any) -> Value:
        """1 / x to 2^-22, 0 where that is denormal."""
        return self.emit(f"{self._function('reciprocal', self.bits)}({{}})", x)

    def table(self, table: Table, u: Any) -> Any:
        return self.emit(f"{self._function(table, self.bits)}({{}}, tables_ptr)", self.tensor(u))

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in PRIMITIVES:
            raise AttributeError(name)
        return lambda x: (
            math.sqrt(x)
            if name == "sqrt" and not isinstance(x, Value)
            else self.emit(f"{self._function(name, self.bits)}({{}})", self.tensor(x))
        )


def _merged(value: Value) -> bool:
    return value.uses == 1 and value.pattern in MERGED


class Body(Trace):
    """The trace of a primitive's own definition: the core is called, the rest written out."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in PRIMITIVES or PRIMITIVES[name].definition is not None:
            raise AttributeError(name)
        return super().__getattr__(name)
