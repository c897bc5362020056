"""Searches as Python functions that return their full recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from integrand.search.documents import split_documents
from integrand.search.function_space import BEST, function_space
from integrand.search.gaussian_rung import gaussian_rung
from integrand.search.gradient_space import GradientSpace
from integrand.search.kernel_rung import kernel_rung
from integrand.search.planted_rung import planted_rung
from integrand.search.recipe import Recipe
from integrand.search.synthetic import synthetic_rung
from integrand.search.tiny import tiny_config, tiny_rung
from integrand.spec import Spec, row
from integrand.train import prepare

REFERENCES = ("silu", "gelu", "relu", "relu2", "xielu")


def smoke(data: str, folder: Path) -> Recipe:
    """Seconds, no evidence: gradients of two pieces, and xIELU's to be found; reads no text."""
    return Recipe(
        "smoke", GradientSpace(pieces=2, terms=2), "evolution", evaluations=120,
        rungs=(gaussian_rung(), planted_rung("xielu")),
        objectives=("cost", "saved_bytes", "active"),
    )  # fmt: skip


def gradient(data: str, folder: Path) -> Recipe:
    """Hours: evolution in the space of gradients, up to a tiny language model.

    Data is divided in `folder`: the search reads one half of the documents, a confirmation the
    other.
    """
    text = str(folder / "text" / "search.jsonl")
    rungs = (gaussian_rung(), synthetic_rung(), kernel_rung(), tiny_rung(text))
    return Recipe(
        "gradient", GradientSpace(), "evolution", evaluations=2000, rungs=rungs,
        objectives=("both_ratio", "saved_bytes", "active"), references=_rows(*REFERENCES),
        data=data, prepare=partial(_texts, data, folder / "text"),
    )  # fmt: skip


def swish(data: str, folder: Path) -> Recipe:
    """An hour or two: all functions of one core unit of arXiv:1710.05941, by what trains alone.

    Signals in wide random networks select nobody, and kernels of functions that nobody asked for
    are not measured. Swish and what else its paper names climb to the language model in any case.
    """
    text = str(folder / "text" / "search.jsonl")
    rungs = (gaussian_rung(keep=1.0), synthetic_rung(keep=1 / 60), tiny_rung(text, seconds=300.0))
    named = tuple(Spec(name=name, function=f) for name, f in BEST.items())
    return replace(
        gradient(data, folder), name="swish", space=function_space(), strategy="exhaustive",
        evaluations=25 * 25 * 10, rungs=rungs, objectives=("cost", "saved_bytes", "active"),
        references=(*_rows("swish", *REFERENCES), *named),
    )  # fmt: skip


def _rows(*names: str) -> tuple[Spec, ...]:
    return tuple(row(name).spec for name in names)


def _texts(data: str, folder: Path) -> None:
    """Both halves, and the tokens of the search's, before its rungs ask for them at once."""
    prepare(tiny_config(str(split_documents(data, folder).search)).data)


RECIPES: dict[str, Callable[[str, Path], Recipe]] = {
    "smoke": smoke, "gradient": gradient, "swish": swish,
}  # fmt: skip
