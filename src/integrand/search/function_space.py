"""The function space of the Swish paper: f = b(u1(x), u2(x)), one or two core units.

Source: arXiv:1710.05941. Checked in independent readings of it: the core unit, its inputs (x or the
value of the unit before), that beta is trained, x^2, sigmoid, x1 x2 and exp(-(x1 - x2)^2). The
lists as a whole are from memory of its section 2 and not checked, nor is `BEST`: those functions of
one unit that its table 1 holds for the best, beside Swish.

Ours: every beta is a parameter that starts at 1; the epsilon of log and of the quotient is 1e-3;
sinc(u) is (u sin u + e) / (u^2 + e), e = 1e-6, within e/6 of it and finite at 0. Many are no
activations (sqrt(x), quotients, exp): the grammar or rung 0 refuses those.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from integrand.search.slots import Slots
from integrand.spec import Param, Spec

UNARY: dict[str, str] = {
    "x": "{u}", "-x": "-{u}", "|x|": "abs({u})", "x^2": "{u}**2", "x^3": "{u}**3",
    "sqrt": "sqrt({u})", "beta x": "beta*{u}", "x+beta": "({u} + beta)",
    "log": "log(abs({u}) + 1e-3)", "exp": "exp({u})", "sin": "sin({u})", "cos": "cos({u})",
    "sinh": "sinh({u})", "cosh": "cosh({u})", "tanh": "tanh({u})", "asinh": "asinh({u})",
    "atan": "atan({u})", "sinc": "({u}*sin({u}) + 1e-6)/({u}**2 + 1e-6)", "max(x,0)": "relu({u})",
    "min(x,0)": "min({u}, 0)", "sigmoid": "sigmoid({u})", "softplus": "softplus({u})",
    "exp(-x^2)": "exp(-{u}**2)", "erf": "erf({u})", "beta": "beta",
}  # fmt: skip
BINARY: dict[str, str] = {
    "a+b": "{a} + {b}", "a*b": "({a})*({b})", "a-b": "{a} - ({b})", "a/b": "({a})/({b} + 1e-3)",
    "max": "max({a}, {b})", "min": "min({a}, {b})", "gate": "sigmoid({a})*({b})",
    "bell": "exp(-beta*({a} - ({b}))**2)", "laplace": "exp(-beta*abs({a} - ({b})))",
    "mix": "beta*({a}) + (1 - beta)*({b})",
}  # fmt: skip
BEST: dict[str, str] = {
    "max_x_sigmoid": "max(x, sigmoid(x))", "max_x_tanh": "max(x, tanh(x))",
    "min_x_sin": "min(x, sin(x))", "cos_minus_x": "cos(x) - x",
    "sinc_plus_x": "(x*sin(x) + 1e-6)/(x**2 + 1e-6) + x",
}  # fmt: skip
_INPUTS = ("unit and x", "x and unit", "unit twice")


def function_space(units: int = 1) -> Slots:
    """One core unit of x (25 * 25 * 10 functions), or a second one that takes the first's value."""
    slots: dict[str, tuple[str, ...]] = {}
    for i in range(1, units + 1):
        if i > 1:
            slots[f"inputs {i}"] = _INPUTS
        slots |= {f"unary {i}a": tuple(UNARY), f"unary {i}b": tuple(UNARY)}
        slots[f"binary {i}"] = tuple(BINARY)
    return Slots(f"function{units}", slots, _write)


def _write(chosen: Mapping[str, str]) -> Spec:
    params: dict[str, Param] = {}

    def fresh(template: str) -> str:
        """Every unary or binary function has a beta of its own."""
        if "beta" not in template:
            return template
        params[f"beta{len(params) + 1}"] = Param(1.0)
        return template.replace("beta", f"beta{len(params)}")

    unit = "x"
    for i in range(1, len(chosen) // 3 + 1):
        a, b = {
            "unit and x": (f"({unit})", "x"), "x and unit": ("x", f"({unit})"),
            "unit twice": (f"({unit})", f"({unit})"), "": ("x", "x"),
        }[chosen.get(f"inputs {i}", "")]  # fmt: skip
        a, b = (
            fresh(UNARY[chosen[f"unary {i}{side}"]]).format(u=u) for side, u in (("a", a), ("b", b))
        )
        unit = fresh(BINARY[chosen[f"binary {i}"]]).format(a=a, b=b)
    digest = hashlib.sha256(unit.encode()).hexdigest()[:10]
    # a constant as the outer unary function drops the unit inside
    used = {n: p for n, p in params.items() if re.search(rf"\b{n}\b", unit)}
    return Spec(name=f"f_{digest}", function=unit, params=used)
