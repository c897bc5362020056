"""Expressions as text in the grammar's own syntax."""

from __future__ import annotations

from typing import Any

from sympy.printing.str import StrPrinter

from integrand.derivation.lower import oriented


class _Printer(StrPrinter):
    def _print_Piecewise(self, expr: Any) -> str:
        parts = []
        for value, condition in expr.args:
            if condition == True:  # noqa: E712  SymPy's true is not Python's
                parts.append(self._print(value))
                break
            parts.append(f"{self._print(value)} if {self._print(oriented(condition))} else ")
        return f"({''.join(parts)})"

    def _print_minimum(self, expr: Any) -> str:
        return f"min({self.stringify(expr.args, ', ')})"

    def _print_maximum(self, expr: Any) -> str:
        return f"max({self.stringify(expr.args, ', ')})"

    def _print_Rational(self, expr: Any) -> str:
        if expr.q > 10**6:
            return f"{float(expr):.17g}"
        return super()._print_Rational(expr)

    def _print_Abs(self, expr: Any) -> str:
        return f"abs({self._print(expr.args[0])})"


def to_text(expr: Any) -> str:
    """The expression, pieces written as `a if x > b else c`."""
    text = _Printer().doprint(expr)
    return text[1:-1] if expr.is_Piecewise else text
