"""A namespace that runs a definition or a scalar program on names and writes it down as C."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.table import Table

AND = "{} & {}"


@dataclass(eq=False)
class Value:
    """A C expression: a format `pattern` over operands, or a name where `pattern` has none."""

    trace: Trace
    name: str
    kind: str = "real"
    pattern: str = ""
    operands: tuple[Any, ...] = ()
    uses: int = 0

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
        return self.trace.emit("{} / {}", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.trace.emit("{} / {}", other, self)

    def __neg__(self) -> Value:
        return self.trace.emit("-{}", self)

    def __lt__(self, other: Any) -> Value:
        return self.trace.emit("{} < {}", self, other, kind="bool")

    def __le__(self, other: Any) -> Value:
        return self.trace.emit("{} <= {}", self, other, kind="bool")

    def __gt__(self, other: Any) -> Value:
        return self.trace.emit("{} > {}", self, other, kind="bool")

    def __ge__(self, other: Any) -> Value:
        return self.trace.emit("{} >= {}", self, other, kind="bool")

    def __and__(self, other: Any) -> Value:
        return self.trace.emit(AND, self, other, kind="bool")

    def __rand__(self, other: Any) -> Value:
        return self.trace.emit(AND, self, other, kind="bool")


class Trace:
    """The namespace. `function` gives the C name of a primitive or table, and has it defined."""

    def __init__(self, bits: int, function: Callable[[Any, int], str]) -> None:
        self.bits = bits
        self.type = "float" if bits == 32 else "double"
        self._function = function
        self._values: list[Value] = []
        self._counts: dict[str, int] = {}

    def literal(self, number: float) -> str:
        """The number with all the digits of the type."""
        if isinstance(number, bool):
            return str(int(number))
        if not math.isfinite(number):
            return "NAN" if math.isnan(number) else "INFINITY" if number > 0 else "-INFINITY"
        if self.bits == 32 and abs(number) < 2.0**-150:
            number = 0.0
        text = f"{number:.9g}" if self.bits == 32 else f"{number:.17g}"
        if not any(mark in text for mark in ".en"):
            text += ".0"
        return text + ("f" if self.bits == 32 else "")

    def emit(self, pattern: str, *operands: Any, kind: str = "real") -> Value:
        """A new value: the pattern filled with the operands."""
        letter = {"real": "v", "bool": "c"}[kind]
        self._counts[letter] = self._counts.get(letter, 0) + 1
        for operand in operands:
            if isinstance(operand, Value):
                operand.uses += 1
        value = Value(self, f"{letter}{self._counts[letter]}", kind, pattern, operands)
        self._values.append(value)
        return value

    def lines(self, *results: Any) -> list[str]:
        """The assignments; `results` stay named, single uses of products and conditions merge."""
        for result in results:
            if isinstance(result, Value):
                result.uses += 2
        live = _live(results)
        return [
            f"const {self.type if v.kind == 'real' else 'bool'} {v.name} = {self._text(v)};"
            for v in self._values
            if v in live and not self._merged(v)
        ]

    def text(self, operand: Any) -> str:
        """A name or literal."""
        return operand.name if isinstance(operand, Value) else self.literal(float(operand))

    def _merged(self, value: Value) -> bool:
        merging = value.pattern == "{} * {}" or value.kind == "bool"
        return merging and value.uses == 1

    def _text(self, value: Value) -> str:
        return value.pattern.format(*(self._operand(value, o) for o in value.operands))

    def _operand(self, parent: Value, operand: Any) -> str:
        if not isinstance(operand, Value):
            text = self.literal(operand)
            return f"({text})" if text.startswith("-") else text
        if not operand.pattern or not self._merged(operand):
            return operand.name
        text = self._text(operand)
        loose = parent.pattern in ("{} + {}", "{} - {}") and operand.kind == "real"
        return text if loose else f"({text})"

    def isnan(self, x: Any) -> Value:
        return self.emit("{} != {}", x, x, kind="bool")

    def isinf(self, x: Any) -> Value:
        return self.emit("{} == INFINITY", self.abs(x), kind="bool")

    def const(self, decimal: str) -> float:
        return float(decimal)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if not isinstance(condition, Value):
            return a if condition else b
        if condition.pattern == AND:
            # gcc 12 gives up on vectorising a loop with a conjunction of comparisons in it
            first, second = condition.operands
            return self.where(first, self.where(second, a, b), b)
        return self.emit("{} ? {} : {}", condition, a, b)

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller; nan if either is nan."""
        if not isinstance(a, Value) and not isinstance(b, Value):
            return min(a, b)
        return self._extreme("{0} < {1} ? {0} : ({0} != {0} ? {0} : {1})", a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger; nan if either is nan."""
        if not isinstance(a, Value) and not isinstance(b, Value):
            return max(a, b)
        return self._extreme("{0} > {1} ? {0} : ({0} != {0} ? {0} : {1})", a, b)

    def _extreme(self, pattern: str, a: Any, b: Any) -> Value:
        a, b = (a, b) if isinstance(a, Value) else (b, a)
        for operand in (a, b):
            if isinstance(operand, Value):
                # repeated in the pattern, so kept as a name
                operand.uses += 2
        return self.emit(pattern, a, b)

    def pow(self, a: Any, b: Any) -> Any:
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a**b
        if b in (2.0, 3.0, 4.0):
            square = a * a
            return square if b == 2.0 else square * (a if b == 3.0 else square)
        return self.emit(f"{self._function('pow', self.bits)}({{}}, {{}})", a, b)

    def octave(self, x: Any, k: int) -> tuple[Value, Value]:
        # the last bits of the rounding sum hold n and the bias: shifted, they are the exponent
        mantissa, bias = (23, 127 - k) if self.bits == 32 else (52, 1023 - k)
        shift = 1.5 * 2.0**mantissa + bias
        shifted = self.emit("{} * {} + {}", x, 1.4426950408889634, shift)
        power = f"float{self.bits}(bits{self.bits}({{}}) << {mantissa})"
        return self.emit("{} - {}", shifted, shift), self.emit(power, shifted)

    def table(self, table: Table, u: Any) -> Any:
        return self.emit(f"{self._function(table, self.bits)}({{}})", u)

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in PRIMITIVES:
            raise AttributeError(name)
        return lambda x: self.emit(f"{self._function(name, self.bits)}({{}})", x)


def _live(results: Iterable[Any]) -> set[Value]:
    """What the results are computed from: a branch that a constant rules out is not."""
    live: set[Value] = set()
    stack = list(results)
    while stack:
        value = stack.pop()
        if isinstance(value, Value) and value not in live:
            live.add(value)
            stack.extend(value.operands)
    return live


class Body(Trace):
    """The trace of a primitive's own definition: the core is called, the rest written out."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in PRIMITIVES or PRIMITIVES[name].definition is not None:
            raise AttributeError(name)
        return super().__getattr__(name)
