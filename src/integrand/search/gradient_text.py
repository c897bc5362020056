"""Genomes of the gradient space as specs."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

from integrand.errors import SpecError
from integrand.search.candidate import Genome
from integrand.spec import Param, Spec

# finite on all reals for every affine argument
PRIMITIVES: dict[str, str] = {
    "x": "({u})", "square": "({u})**2", "relu": "relu({u})", "exp": "exp({u})",
    "expm1": "expm1({u})", "tanh": "tanh({u})", "sigmoid": "sigmoid({u})",
    "softplus": "softplus({u})", "atan": "atan({u})", "erf": "erf({u})",
    "softsign": "softsign({u})", "sin": "sin({u})", "cos": "cos({u})", "bell": "exp(-({u})**2)",
}  # fmt: skip


def spec_of(genome: Genome) -> Spec:
    """The spec of (level, cuts, pieces). Raises `SpecError`, also where cuts do not increase."""
    return _Text().spec(genome)


class _Text:
    """Writes a genome as the text of a spec, collecting parameters on the way."""

    def __init__(self) -> None:
        self.params: dict[str, Param] = {}

    def spec(self, genome: Genome) -> Spec:
        level, cuts, pieces = genome
        if any(a[0] >= b[0] for a, b in pairwise(cuts)):
            raise SpecError(f"cuts must increase, got {', '.join(str(c[0]) for c in cuts)}")
        base = self.number("level", level)
        bounds = self.cuts(cuts)
        texts = [self.piece(base, level[0], piece) for piece in pieces]
        text = texts[0]
        for bound, right in zip(bounds, texts[1:], strict=True):
            text = f"{right} if x > {bound} else {text}"
        digest = hashlib.sha256(repr(genome).encode()).hexdigest()[:10]
        return Spec(name=f"g_{digest}", gradient=text, params=self.params)

    def number(self, name: str, number: tuple[float, str], **bounds: Any) -> str:
        value, kind = number
        if kind == "const":
            return f"{value:.12g}"
        self.params[name] = Param(value, **bounds)
        return name

    def cuts(self, cuts: Genome) -> list[str]:
        """Parameters among the cuts are kept in order by their bounds."""
        texts: list[str] = []
        for i, cut in enumerate(cuts):
            after = cuts[i + 1] if i + 1 < len(cuts) else None
            previous: Any = (
                None if not texts else texts[-1] if texts[-1] in self.params else cuts[i - 1][0]
            )
            below = after[0] if after is not None and after[1] == "const" else None
            texts.append(self.number(f"cut{i + 1}", cut, above=previous, below=below))
        return texts

    def piece(self, base: str, level: float, piece: Genome) -> str:
        text = "" if base in ("0", "-0") else base
        for term in piece:
            sign, body = self.term(base, level, term)
            text = f"{text} {sign} {body}" if text else body if sign == "+" else f"-{body}"
        return text or "0"

    def term(self, base: str, level: float, term: Genome) -> tuple[str, str]:
        number, primitive, slope, offset = term
        place = len(self.params) + 1
        c = self.number(f"a{place}", number, **_bound(number, base, level))
        k = self.number(f"k{place}", slope, **_bound(slope, base, level))
        d = self.number(f"d{place}", offset)
        u = "x" if k == "1" else "-x" if k == "-1" else f"{k}*x"
        if d != "0":
            u = f"{u} - {d[1:]}" if d[0] == "-" else f"{u} + {d}"
        h = PRIMITIVES[primitive].format(u=u).replace("(x)**", "x**")
        h = "x" if h == "(x)" else h
        sign, size = ("-", c[1:]) if c[0] == "-" else ("+", c)
        return sign, h if size == "1" else f"{size}*{h}"


def _bound(number: tuple[float, str], base: str, level: float) -> dict[str, Any]:
    value, kind = number
    if kind == "over" and value > level:
        return {"above": base if base == "level" else level}
    if kind in ("signed", "over"):
        return {"above": 0} if value > 0 else {"below": 0}
    return {}
