"""What a stand-alone source says about its activation, as data, and the head of its file."""

from __future__ import annotations

import builtins
import itertools
import keyword
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from integrand.derivation.program import Program
from integrand.spec import Param, Spec, dependency_order

WIDTH = 92
# what no variable, function or class of Python source may be called
PYTHON = "|".join([*keyword.kwlist, *(n for n in dir(builtins) if not n.startswith("_"))])
# capitals of the modules with a class
_CLASSES = re.compile(rf"F|BLOCK|OPTIONS|TABLES|INTERPRETED|{PYTHON}")


@dataclass(frozen=True)
class Export:
    """An activation to be written: its declaration, its program, text of f.

    `raw` has the trainable parameters' initial values in unconstrained form; `buffers` are kept in
    checkpoints and not used; `values` are those folded into the program, which then has no
    parameters.
    """

    spec: Spec
    program: Program
    formula: str
    raw: Mapping[str, float] = field(default_factory=dict)
    buffers: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    def head(self, *notes: str) -> list[str]:
        """The lines above the code: formula, values folded in, source, generator, notes."""
        about = [f"{self.spec.name}: f(x) = {self.formula}"]
        if self.values:
            about.append("at " + ", ".join(f"{k} = {v!r}" for k, v in self.values.items()))
        lines = [*self._wrapped(about), ""]
        if self.spec.source:
            lines += textwrap.wrap(f"Source: {self.spec.source}.", WIDTH)
        lines.append(
            f"Written by integrand {_version()}; declaration sha256 {self.spec.sha256[:16]}."
        )
        return [*lines, *self._wrapped(notes)]

    @staticmethod
    def _wrapped(texts: list[str] | tuple[str, ...]) -> list[str]:
        return [line for text in texts for line in textwrap.wrap(text, WIDTH)]

    def docstring(self, *notes: str) -> str:
        """`head` as the docstring of a Python module."""
        text = "\n".join(self.head(*notes)).replace("\\", "\\\\").replace('"""', "'''")
        return f'"""{text}\n"""'

    @property
    def class_name(self) -> str:
        """xielu_beta as XieluBeta; f as F_, none as None_."""
        name = "".join(part.capitalize() for part in self.spec.name.split("_"))
        return safe_names([name], _CLASSES)[0]

    def constraints(
        self, names: Mapping[str, str], stored: Mapping[str, str], library: str
    ) -> list[str]:
        """Assignments of the parameter values; `stored` says where each comes from."""
        return [
            f"{names[n]} = {_constrained(self.spec.params[n], stored[n], names, library)}"
            for n in dependency_order(self.spec.params)
        ]

    def constants(self) -> dict[str, float]:
        """The values of the parameters that are not trained."""
        return {n: float(p.init) for n, p in self.spec.params.items() if not p.trainable}


def _constrained(p: Param, raw: str, names: Mapping[str, str], library: str) -> str:
    """The value of a raw parameter, by the softplus and sigmoid of a library."""
    low, high = (names[b] if isinstance(b, str) else b for b in (p.above, p.below))
    if not p.trainable or (low is None and high is None):
        return raw
    if low is not None and high is not None:
        return f"{low} + ({high} - {low}) * {library}.sigmoid({raw})"
    if low is not None:
        return f"{f'{low} + ' if low else ''}{library}.softplus({raw})"
    return f"{high} - {library}.softplus({raw})"


def used(definitions: Mapping[str, str], code: str) -> list[str]:
    """The definitions whose names occur in the code or in one of those, in their own order."""
    found: set[str] = set()
    texts = [code]
    while texts:
        words = set(re.findall(r"\w+", texts.pop()))
        new = [name for name in definitions if name in words and name not in found]
        found.update(new)
        texts += [definitions[name] for name in new]
    return [text for name, text in definitions.items() if name in found]


def safe_names(names: Iterable[str], taken: re.Pattern[str]) -> list[str]:
    """The names as those of the source, all different: what the template calls something else is
    extended until it is free."""
    names = list(names)
    found: list[str] = []
    for name in names:
        free = (n for n in _extended(name) if not taken.fullmatch(n))
        found.append(next(n for n in free if n == name or n not in (*names, *found)))
    return found


def _extended(name: str) -> Iterator[str]:
    """The name, and longer ones, which leave patterns of endings first, then of beginnings."""
    yield name
    for k in itertools.count(1):
        yield name + "_" * k
        yield "p_" + name + "_" * k


def _version() -> str:
    try:
        return version("integrand")
    except PackageNotFoundError:
        return "(not installed)"
