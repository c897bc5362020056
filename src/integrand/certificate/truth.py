"""The truth in multi-precision: the declared text itself, and the scalar program on exact reals.

The text decides. The program is evaluated on reals only where the text has no closed form of the
quantity asked for, and only after it agreed with the text on a sample (`agreement.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from integrand.certificate.antiderivative import Antiderivative
from integrand.derivation.exact import breakpoints, exact
from integrand.derivation.numeric import evaluate_with_bound
from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.program import Program
from integrand.derivation.table import Table
from integrand.spec import Spec

Array = np.ndarray[Any, Any]

_START, _CAP, _AGREE = 40, 720, 30


class Truth:
    """Exact f, df and partials of a declaration for given parameter values.

    Args:
        spec: the declaration.
        program: its scalar program.
        params: every parameter's value, exactly as the implementation under test receives it.
    """

    def __init__(self, spec: Spec, program: Program, params: Mapping[str, float]):
        import mpmath

        self.spec, self.declared, self.program = spec, program, at_finite_x(program)
        self.partial_sentences: list[str] | None = None
        self._known: dict[tuple[str, float], Any] = {}
        self.values = dict(params)
        # a context of its own, so that nobody else's precision changes
        self.mp: Any = mpmath.MPContext()
        self.params = {k: self.mp.mpf(v) for k, v in params.items()}
        self.antiderivative = Antiderivative(spec, self.params) if spec.kind == "gradient" else None

    def fp64(self, x: Array, outputs: Iterable[str]) -> dict[str, tuple[Array, Array]]:
        """Per output of the program, fp64 values and bounds of their error, in the shape of x."""
        outputs = list(outputs)
        values, bounds = evaluate_with_bound(self.program, x, self.values, outputs)
        shaped = [np.broadcast_to(np.asarray(a, dtype=float), x.shape) for a in values]
        errors = [np.broadcast_to(np.asarray(a, dtype=float), x.shape) for a in bounds]
        return dict(zip(outputs, zip(shaped, errors, strict=True), strict=True))

    def breakpoints(self) -> list[float]:
        """Where the declared text changes its piece, ascending."""
        with self.mp.workdps(_START):
            return sorted({float(b) for b in breakpoints(self.spec.node, self.params, self.mp)})

    def text(self, x: float) -> Any:
        """The declared text at x: the gradient or the function, whichever it is."""
        value = lambda: exact(self.spec.node, self.mp.mpf(x), self.params, self.mp)  # noqa: E731
        return self._once("text", x, lambda: self.settled(value))

    def df(self, x: float) -> Any:
        """f'(x): the declared gradient, or the program's df for a declared function."""
        return self.text(x) if self.spec.kind == "gradient" else self.run("df", x)

    def f(self, x: float) -> Any:
        """f(x): the declared function, the program's f on reals, or quadrature of the gradient
        where the program interpolates in a table. None where quadrature does not converge."""
        if self.antiderivative is None:
            return self.text(x)
        return self.f_by_quadrature(x) if self.program.tables else self.run("f", x)

    def f_by_quadrature(self, x: float) -> Any:
        """f(x) from the declared gradient alone; None where quadrature does not converge."""
        antiderivative = self.antiderivative
        assert antiderivative is not None
        return self._once("integral", x, lambda: antiderivative(x))

    def df_by_difference(self, x: float) -> Any:
        """f'(x) of a declared function by a central difference in multi-precision."""
        return self._once("difference", x, lambda: self._difference(x))

    def _difference(self, x: float) -> Any:
        mp = self.mp
        # x +- h must keep the digits of h
        extra = 2 * abs(int(mp.mag(mp.mpf(x)))) if x else 0

        def central() -> Any:
            h = (min(abs(mp.mpf(x)), mp.one) or mp.one) * mp.mpf(2) ** -(mp.prec // 4)
            with mp.workprec(mp.prec + extra):
                up, down = (exact(self.spec.node, x + s * h, self.params, mp) for s in (1, -1))
                return (up - down) / (2 * h)

        return self.settled(central)

    def slopes(self, x: float) -> tuple[Any, Any]:
        """The left and right slopes of a declared function at x, to 30 digits."""
        mp = self.mp
        with mp.workprec(900):
            h = mp.mpf(2) ** -120 * (abs(mp.mpf(x)) or 1)
            here, up, down = (exact(self.spec.node, x + s * h, self.params, mp) for s in (0, 1, -1))
            return (here - down) / h, (up - here) / h

    def run(self, output: str, x: float, params: Mapping[str, Any] | None = None) -> Any:
        """An output of the program in real arithmetic."""
        mp = self.mp
        values = self.params if params is None else params
        return self.settled(lambda: evaluate_real(self.program, output, mp.mpf(x), values, mp))

    def _once(self, kind: str, x: float, value: Callable[[], Any]) -> Any:
        if (kind, x) not in self._known:
            self._known[kind, x] = value()
        return self._known[kind, x]

    def settled(self, value: Callable[[], Any]) -> Any:
        """A value computed with more and more digits until two results agree."""
        mp, digits = self.mp, _START
        with mp.workdps(digits):
            previous = value()
        while True:
            digits *= 2
            with mp.workdps(digits):
                result = value()
                if not (mp.isfinite(result) and mp.isfinite(previous)):
                    return result
                close = mp.mpf(10) ** -_AGREE * abs(result)
                # terms that cancel to 0 twice, such as expm1(-576) + 1, may need all the digits
                if digits >= _CAP or (result != 0 and abs(result - previous) <= close):
                    return result
            if result == 0:
                digits = _CAP // 2
            previous = result


def at_finite_x(program: Program) -> Program:
    """The program without its answers to x = nan and x = +-inf, which are judged on their own."""
    ops = list(program.ops)
    for i, op in enumerate(ops):
        match op:
            case ("select", c, _, other) if ops[c][0] == "call" and ops[c][1] in ("isnan", "isinf"):
                if ops[ops[c][2]] == ("x",):
                    # min(a, a) is a, exactly
                    ops[i] = ("min", other, other)
    return replace(program, ops=tuple(ops))


_TRUTHS: OrderedDict[tuple[Any, ...], Truth] = OrderedDict()


def truth_of(act: Any, values: Mapping[str, float]) -> Truth:
    """The `Truth` of an activation; the last few are kept with the values they have computed."""
    # a kept truth holds its program, so that no other one can get its id
    key = (act.spec.sha256, id(act.program), *values.items())
    if key not in _TRUTHS:
        _TRUTHS[key] = Truth(act.spec, act.program, values)
        if len(_TRUTHS) > 8:
            _TRUTHS.popitem(last=False)
    _TRUTHS.move_to_end(key)
    return _TRUTHS[key]


def evaluate_real(program: Program, output: str, x: Any, params: Mapping[str, Any], mp: Any) -> Any:
    """One output of a program on mpf numbers; a `select` evaluates the branch in effect only."""
    known: dict[int, Any] = {}

    def at(i: int) -> Any:
        if i not in known:
            known[i] = compute(program.ops[i])
        return known[i]

    def compute(op: tuple[Any, ...]) -> Any:
        match op:
            case ("x",):
                return x
            case ("param", name):
                return params[name]
            case ("const", text):
                return mp.mpf(text)
            case ("call", ("isnan" | "isinf") as test, i):
                return getattr(mp, test)(at(i))
            case ("call", name, i):
                return PRIMITIVES[name].meaning(mp, at(i))
            case ("table", k, i):
                return table_value(program.tables[k], at(i), mp)
            case ("select", c, i, j):
                return at(i) if at(c) else at(j)
            case (name, i, j):
                return _BINARY[name](mp, at(i), at(j))
        raise AssertionError(op)

    return at(program.outputs[output])


_BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda mp, a, b: a + b,
    "sub": lambda mp, a, b: a - b,
    "mul": lambda mp, a, b: a * b,
    "div": lambda mp, a, b: a / b,
    "pow": lambda mp, a, b: mp.zero if a == 0 and b > 0 else a**b,
    "min": lambda mp, a, b: min(a, b),
    "max": lambda mp, a, b: max(a, b),
    "lt": lambda mp, a, b: a < b,
    "le": lambda mp, a, b: a <= b,
    "and": lambda mp, a, b: bool(a and b),
}


def table_value(table: Table, u: Any, mp: Any) -> Any:
    """A certified table at u, its polynomials in real arithmetic."""
    side, a = int(u >= 0), abs(u)

    def polynomial(coefficients: tuple[float, ...], t: Any) -> Any:
        total = mp.zero
        for c in reversed(coefficients):
            total = total * t + c
        return total

    if a < mp.mpf(2) ** table.lo:
        return u * polynomial(table.near[side], a / mp.mpf(2) ** table.lo)
    if a >= mp.mpf(2) ** table.hi:
        a2, a1, log, xlog = table.growth[side]
        growth = a2 * u * u + a1 * u + (log + xlog * u) * mp.log(a)
        return growth + polynomial(table.far[side], mp.mpf(2) ** table.hi / a)
    octave = int(mp.floor(mp.log(a, 2)))
    # a logarithm may round across the octave's edge
    octave += (a >= mp.mpf(2) ** (octave + 1)) - (a < mp.mpf(2) ** octave)
    place = (a / mp.mpf(2) ** octave - 1) * 2**table.split
    segment = int(mp.floor(place))
    index = (octave - table.lo) * 2**table.split + segment
    return polynomial(table.middle[side][index], 2 * (place - segment) - 1)
