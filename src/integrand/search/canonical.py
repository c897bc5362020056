"""One text for all candidates that are equal up to an additive constant of f, a positive factor,
names, order of terms and pieces, and the usual rewritings of arithmetic.

A text is brought to pieces ("if", bound, left, right) of sums, a sum being
((term, coefficient), ...) and a term ((factor, exponent), ...) with factors as text. It merges too
little rather than too much: nothing is cancelled that could hide a pole, and what would grow too
large keeps its own text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from integrand.spec import Node, Param, Spec

Term = tuple[tuple[str, int], ...]
Sum = dict[Term, float]
Pieces = Any  # a Sum, or ("if", bound, left, right) with left where x < bound

_ODD = ("tanh", "sinh", "atan", "asinh", "erf", "sin", "softsign", "sign", "xmatan")
_EVEN = ("abs", "cosh", "cos", "logcosh")
_MOST_TERMS = 24
_MOST_TEXT = 2000  # a sum of k ternaries has 2^k pieces, and powers of powers grow likewise
_NAME = re.compile(r"#(\w+)")
_POLE = re.compile(r"1/|log|sqrt|pow")


class _TooLarge(Exception):
    pass


def canonical(spec: Spec) -> tuple[str, list[str]]:
    """(the text, the parameters in the order of the text)."""
    try:
        return _canonical(spec)
    except _TooLarge:
        return f"{spec.kind}: {spec.node} {spec.params}", list(spec.params)


def _canonical(spec: Spec) -> tuple[str, list[str]]:
    pieces = _walk(spec.node, spec.params)
    leaves = list(_leaves(pieces))
    if spec.kind == "function" and len({leaf.get((), 0.0) for leaf in leaves}) == 1:
        for leaf in leaves:
            leaf.pop((), None)
    scale = next((abs(c) for leaf in leaves for _, c in _sorted(leaf) if c), 1.0)
    text = f"{spec.kind}: {_text(pieces, scale)}"
    order = list(dict.fromkeys(_NAME.findall(text)))
    for name in order:  # grows: those that bound others come in the order of those
        bounds = spec.params[name].above, spec.params[name].below
        order += [b for b in bounds if isinstance(b, str) and b not in order]
    order += [n for n in spec.params if n not in order]
    number = {name: str(i) for i, name in enumerate(order)}
    text = _NAME.sub(lambda m: "#" + number[m[1]], text)

    def limit(bound: float | str | None) -> str:
        return number[bound] if isinstance(bound, str) else "" if bound is None else f"{bound:.12g}"

    table = (
        f"{p.init:.12g} > {limit(p.above)} < {limit(p.below)}"
        for p in map(spec.params.__getitem__, order)
    )
    return f"{text} | {', '.join(table)}", order


def _blind(text: str) -> tuple[str, str]:
    """A key that sorts without names first."""
    return _NAME.sub("", text), text


def _sorted(s: Sum) -> list[tuple[Term, float]]:
    kept = ((t, c) for t, c in s.items() if c or _may_hide(t))
    return sorted(kept, key=lambda tc: _blind(_term(tc[0])))


def _may_hide(term: Term) -> bool:
    """Whether there are points where 0 times the term is not 0."""
    return any(_POLE.search(factor) for factor, _ in term)


def _term(term: Term) -> str:
    return "*".join(f if n == 1 else f"{f}^{n}" for f, n in term) or "1"


def _text(pieces: Pieces, scale: float = 1.0) -> str:
    if isinstance(pieces, tuple):
        _, bound, left, right = pieces
        text = f"({_text(left, scale)} [{_text(bound)}] {_text(right, scale)})"
    else:
        terms = (f"{c / scale + 0.0:.12g} {_term(t)}" for t, c in _sorted(pieces))
        text = " + ".join(terms) or "0"
    if len(text) > _MOST_TEXT:
        raise _TooLarge
    return text


def _leaves(pieces: Pieces) -> Any:
    if isinstance(pieces, tuple):
        yield from _leaves(pieces[2])
        yield from _leaves(pieces[3])
    else:
        yield pieces


def _lift(operation: Callable[..., Pieces], *args: Pieces) -> Pieces:
    """The operation on every combination of pieces."""
    for i, a in enumerate(args):
        if isinstance(a, tuple):
            _, bound, left, right = a
            new = [_lift(operation, *args[:i], part, *args[i + 1 :]) for part in (left, right)]
            return _piecewise(bound, *new)
    return operation(*args)


def _piecewise(bound: Pieces, left: Pieces, right: Pieces) -> Pieces:
    return left if _text(left) == _text(right) else ("if", bound, left, right)


def _walk(node: Node, params: Mapping[str, Param]) -> Pieces:
    match node:
        case ("x",):
            return {(("x", 1),): 1.0}
        case ("num", text):
            return {(): float(text)}
        case ("pi",):
            return {(): 3.141592653589793}
        case ("param", name):
            p = params[name]
            kind = f"{p.init:.12g}{'>' * (p.above is not None)}{'<' * (p.below is not None)}"
            return {((f"p{kind}{'' if p.trainable else '='}#{name}", 1),): 1.0}
        case ("if", op, bound, then, otherwise):
            at, yes, no = (_walk(n, params) for n in (bound, then, otherwise))
            return _piecewise(at, *((no, yes) if op in ("gt", "ge") else (yes, no)))
        case ("call", name, *args):
            return _lift(lambda *a: _call(name, *a), *(_walk(a, params) for a in args))
    parts = [_walk(n, params) for n in node[1:]]
    return _lift(_ARITHMETIC[node[0]], *parts)


def _add(a: Sum, b: Sum, sign: float = 1.0) -> Sum:
    total = ((t, a.get(t, 0.0) + sign * b.get(t, 0.0)) for t in {**a, **b})
    return {t: c for t, c in total if c or _may_hide(t)}


def _scaled(a: Sum, factor: float) -> Sum:
    return {t: c * factor for t, c in a.items()}


def _mul(a: Sum, b: Sum) -> Sum:
    if len(a) * len(b) > _MOST_TERMS:
        return {_join(((_atom(a), 1),), ((_atom(b), 1),)): 1.0}
    total: Sum = {}
    for s, c in a.items():
        for t, d in b.items():
            total = _add(total, {_join(s, t): c * d})
    return total


def _join(s: Term, t: Term) -> Term:
    powers = dict(s)
    for factor, n in t:
        powers[factor] = powers.get(factor, 0) + n
    return tuple(sorted(powers.items(), key=lambda fn: _blind(fn[0])))


def _atom(s: Sum) -> str:
    return f"({_text(s)})"


def _number(s: Sum) -> float | None:
    return s.get((), 0.0) if not s or set(s) == {()} else None


def _div(a: Sum, b: Sum) -> Sum:
    number = _number(b)
    if number:
        return _scaled(a, 1 / number)
    # an atom of its own: x * (1/x) is not 1 at 0
    return _mul(a, {((f"1/{_atom(b)}", 1),): 1.0})


def _pow(a: Sum, b: Sum) -> Sum:
    n = _number(b)
    if n is not None and n in (1, 2, 3, 4) and len(a) ** n <= _MOST_TERMS:
        result = a
        for _ in range(int(n) - 1):
            result = _mul(result, a)
        return result
    return {((f"pow({_text(a)}, {_text(b)})", 1),): 1.0}


def _call(name: str, *args: Sum) -> Sum:
    if name in ("min", "max"):
        texts = sorted((_text(a) for a in args), key=_blind)
        return {((f"{name}({', '.join(texts)})", 1),): 1.0}
    (a,) = args
    sign = 1.0
    if name in _ODD + _EVEN and a and _sorted(a)[0][1] < 0:
        a, sign = _scaled(a, -1.0), -1.0 if name in _ODD else 1.0
    return {((f"{name}({_text(a)})", 1),): sign}


_ARITHMETIC: dict[str, Callable[..., Sum]] = {
    "neg": lambda a: _scaled(a, -1.0),
    "add": _add,
    "sub": lambda a, b: _add(a, b, -1.0),
    "mul": _mul,
    "div": _div,
    "pow": _pow,
}
