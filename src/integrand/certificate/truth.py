"""The truth in multi-precision: the declared text itself, and the scalar program on exact reals.

The text decides. The program is evaluated on reals only where the text has no closed form of the
quantity asked for, and only after it agreed with the text on a sample (`agreement.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from integrand.certificate.antiderivative import Antiderivative
from integrand.certificate.context import context
from integrand.certificate.largest_term import largest_terms
from integrand.certificate.real_program import at_finite_x, evaluate_real
from integrand.derivation.exact import breakpoints, exact
from integrand.derivation.numeric import evaluate_with_bound
from integrand.derivation.program import Program
from integrand.derivation.truncation import without_series
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
        self.spec, self.declared, self.program = spec, program, at_finite_x(program)
        self.formula = without_series(self.program)
        self.in_series = self.formula != self.program
        self.partial_sentences: list[str] | None = None
        self._known: dict[tuple[str, float], Any] = {}
        self.values = dict(params)
        self.mp: Any = context()
        self.params = {k: self.mp.mpf(v) for k, v in params.items()}
        self.antiderivative = Antiderivative(spec, self.params) if spec.kind == "gradient" else None

    def fp64(self, x: Array, outputs: Iterable[str]) -> dict[str, tuple[Array, Array]]:
        """Per output of the program, fp64 values and bounds of their error, in the shape of x."""
        outputs = list(outputs)
        values, bounds = evaluate_with_bound(self.program, x, self.values, outputs)
        shaped = [np.broadcast_to(np.asarray(a, dtype=float), x.shape) for a in values]
        errors = [np.broadcast_to(np.asarray(a, dtype=float), x.shape) for a in bounds]
        if self.in_series and "f" in outputs:
            f = outputs.index("f")
            errors[f] = errors[f] + self.left_out * np.abs(shaped[f])
        return dict(zip(outputs, zip(shaped, errors, strict=True), strict=True))

    def largest_terms(self, x: Array, outputs: Iterable[str]) -> dict[str, Array]:
        """Per output, its largest term. Of the series' and the formula's the smaller: those of a
        series may be as large as they like where it is not what it claims to be."""
        outputs = list(outputs)
        series, formula = (
            largest_terms(p, x, self.values, outputs) for p in (self.program, self.formula)
        )
        return {name: np.minimum(series[name], formula[name]) for name in outputs}

    @cached_property
    def left_out(self) -> float:
        """What the series next to the anchor leave out, of f: four times what they do where they
        reach farthest, since it falls with a power of the distance."""
        anchor, worst = float(self.spec.anchor[0]), 2.0**-50
        for side in (-1, 1):
            x = anchor + side * 2.0 ** np.arange(-60, 10, 0.125)
            series, formula = (
                evaluate_with_bound(program, x, self.values, ["f"])[0][0]
                for program in (self.program, self.formula)
            )
            for i in np.flatnonzero(series != formula)[-3:]:
                if true := self.f_by_quadrature(float(x[i])):
                    worst = max(worst, 4 * float(abs((series[i] - true) / true)))
        return worst

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
        where the program interpolates in a table or takes a series. None where quadrature does not
        converge."""
        if self.antiderivative is None:
            return self.text(x)
        # a formula that cancels holds constants of 30 digits
        near = self.in_series and abs(x - float(self.spec.anchor[0])) < 1
        return self.f_by_quadrature(x) if self.program.tables or near else self.run("f", x)

    def f_by_quadrature(self, x: float) -> Any:
        """f(x) from the declared gradient alone; None where quadrature does not converge."""
        antiderivative = self.antiderivative
        assert antiderivative is not None
        return self._once("integral", x, lambda: antiderivative(x))

    def df_by_difference(self, x: float) -> Any:
        """f'(x) of a declared function by a central difference in multi-precision."""
        node = self.spec.node
        return self._once(
            "difference",
            x,
            lambda: self._difference(lambda t: exact(node, t, self.params, self.mp), x),
        )

    def bend(self, x: float) -> Any:
        """f''(x) by a central difference of the program's df in multi-precision."""
        program = self.program
        return self._difference(lambda t: evaluate_real(program, "df", t, self.params, self.mp), x)

    def _difference(self, function: Callable[[Any], Any], x: float) -> Any:
        mp = self.mp
        # x +- h must keep the digits of h
        extra = 2 * abs(int(mp.mag(mp.mpf(x)))) if x else 0

        def central() -> Any:
            h = (min(abs(mp.mpf(x)), mp.one) or mp.one) * mp.mpf(2) ** -(mp.prec // 4)
            with mp.workprec(mp.prec + extra):
                return (function(x + h) - function(x - h)) / (2 * h)

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
        return self.settled(lambda: evaluate_real(self.formula, output, mp.mpf(x), values, mp))

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
