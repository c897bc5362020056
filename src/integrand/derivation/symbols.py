"""The primitives as SymPy functions, and the way from parsed text to SymPy.

The stable ones (`expm1mx`, `softplus0`, ...) stay opaque, so that SymPy cannot expand them into
forms that overflow or cancel; `elementary` spells them out where an algorithm needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp
from mpmath import mp

from integrand.derivation.primitives import PRIMITIVES
from integrand.spec import Node, Spec, evaluate

X = sp.Symbol("x", real=True)


class Primitive(sp.Function):
    """A real function of one real variable with a multi-precision meaning."""

    nargs = 1
    at_zero: Any = sp.S.Zero
    rule: Any = None  # u -> derivative
    spelled: Any = None  # u -> elementary form

    @classmethod
    def eval(cls, u: Any) -> Any:
        return cls.at_zero if u.is_zero else None

    def fdiff(self, argindex: int = 1) -> Any:
        return type(self).rule(self.args[0])

    def _eval_is_extended_real(self) -> bool | None:
        return self.args[0].is_extended_real

    def _eval_evalf(self, prec: int) -> Any:
        u = self.args[0]._eval_evalf(prec)
        if u is None or not u.is_number or not u.is_real:
            return None
        with mp.workprec(prec + 20):
            meaning = getattr(type(self), "meaning", None)
            if meaning is None:
                meaning = PRIMITIVES[type(self).__name__].meaning
            value = meaning(mp, mp.mpf(u._mpf_))
        return sp.Float._new(value._mpf_, prec)


def _primitive(name: str, rule: Any, spelled: Any, at_zero: Any = 0) -> type[Primitive]:
    body = {
        "rule": staticmethod(rule),
        "spelled": staticmethod(spelled),
        "at_zero": sp.sympify(at_zero),
    }
    return type(name, (Primitive,), body)


def _positive(u: Any) -> Any:
    return sp.Piecewise((1, u > 0), (0, True))


expm1 = _primitive("expm1", sp.exp, lambda u: sp.exp(u) - 1)
expm1mx = _primitive("expm1mx", expm1, lambda u: sp.exp(u) - 1 - u)
log1p = _primitive("log1p", lambda u: 1 / (1 + u), lambda u: sp.log(1 + u))
xmlog1p = _primitive("xmlog1p", lambda u: u / (1 + u), lambda u: u - sp.log(1 + u))
xmatan = _primitive("xmatan", lambda u: u**2 / (1 + u**2), lambda u: u - sp.atan(u))
sigmoid = _primitive(
    "sigmoid", lambda u: sigmoid(u) * sigmoid(-u), lambda u: 1 / (1 + sp.exp(-u)), sp.Rational(1, 2)
)
softplus = _primitive("softplus", sigmoid, lambda u: sp.log(1 + sp.exp(u)), sp.log(2))
softplus0 = _primitive("softplus0", sigmoid, lambda u: sp.log((1 + sp.exp(u)) / 2))
logcosh = _primitive("logcosh", sp.tanh, lambda u: sp.log(sp.cosh(u)))
ndtr = _primitive(
    "ndtr",
    lambda u: sp.exp(-(u**2) / 2) / sp.sqrt(2 * sp.pi),
    lambda u: (1 + sp.erf(u / sp.sqrt(2))) / 2,
    sp.Rational(1, 2),
)
softsign = _primitive("softsign", lambda u: 1 / (1 + sp.Abs(u)) ** 2, lambda u: u / (1 + sp.Abs(u)))
relu = _primitive("relu", _positive, lambda u: sp.Piecewise((u, u > 0), (0, True)))


class minimum(sp.Function):
    """min(a, b); SymPy's own Min reorders and rewrites its arguments."""

    nargs = 2

    def fdiff(self, argindex: int = 1) -> Any:
        a, b = self.args
        return sp.Piecewise((2 - argindex, a <= b), (argindex - 1, True))

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        return (a if a <= b else b) if a.is_number and b.is_number else None

    def _eval_is_extended_real(self) -> bool:
        return True


class maximum(sp.Function):
    """max(a, b)."""

    nargs = 2

    def fdiff(self, argindex: int = 1) -> Any:
        a, b = self.args
        return sp.Piecewise((2 - argindex, a >= b), (argindex - 1, True))

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        return (a if a >= b else b) if a.is_number and b.is_number else None

    def _eval_is_extended_real(self) -> bool:
        return True


OWN: dict[str, type[Primitive]] = {
    c.__name__: c
    for c in (
        expm1, expm1mx, log1p, xmlog1p, xmatan, sigmoid, softplus, softplus0, logcosh, ndtr,
        softsign, relu,
    )
}  # fmt: skip
FUNCTIONS: dict[str, Any] = OWN | {
    "exp": sp.exp, "log": sp.log, "sqrt": sp.sqrt, "abs": sp.Abs, "sign": sp.sign, "tanh": sp.tanh,
    "sinh": sp.sinh, "cosh": sp.cosh, "atan": sp.atan, "asinh": sp.asinh, "erf": sp.erf,
    "erfc": sp.erfc, "sin": sp.sin, "cos": sp.cos, "min": minimum, "max": maximum,
}  # fmt: skip


def symbols(spec: Spec) -> dict[str, sp.Symbol]:
    """A real symbol per parameter, positive or negative where its bounds say so."""
    return {
        name: sp.Symbol(
            name,
            real=True,
            positive=True if _lower(spec, name) >= 0 else None,
            negative=True if _upper(spec, name) <= 0 else None,
        )
        for name in spec.params
    }


def _lower(spec: Spec, name: str) -> float:
    above = spec.params[name].above
    return _lower(spec, above) if isinstance(above, str) else -1e999 if above is None else above


def _upper(spec: Spec, name: str) -> float:
    below = spec.params[name].below
    return _upper(spec, below) if isinstance(below, str) else 1e999 if below is None else below


class Symbolic:
    """The namespace of `spec.evaluate` over SymPy."""

    pi = sp.pi

    def num(self, text: str) -> Any:
        return sp.Rational(text)

    def neg(self, a: Any) -> Any:
        return -a

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def div(self, a: Any, b: Any) -> Any:
        return a / b

    def pow(self, a: Any, b: Any) -> Any:
        return a**b

    def call(self, name: str, *args: Any) -> Any:
        return FUNCTIONS[name](*args)

    def select(self, op: str, x: Any, bound: Any, then: Any, otherwise: Any) -> Any:
        relation = {"lt": sp.StrictLessThan, "le": sp.LessThan}.get(op)
        condition = (
            relation(x, bound)
            if relation
            else (sp.StrictGreaterThan if op == "gt" else sp.GreaterThan)(x, bound)
        )
        return sp.Piecewise((then(), condition), (otherwise(), True))


def to_sympy(node: Node, params: Mapping[str, Any]) -> Any:
    """The SymPy expression of a node, in `X` and the given parameter symbols."""
    return sp.sympify(evaluate(node, Symbolic(), X, params))


def elementary(expr: Any) -> Any:
    """The expression with every primitive of ours spelled out in SymPy's own functions."""
    return expr.replace(lambda e: isinstance(e, Primitive), lambda e: type(e).spelled(e.args[0]))
