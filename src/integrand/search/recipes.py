"""Searches as Python functions that return their full recipe."""

from __future__ import annotations

from collections.abc import Callable

from integrand.search.gaussian_rung import gaussian_rung
from integrand.search.gradient_space import GradientSpace
from integrand.search.planted_rung import planted_rung
from integrand.search.recipe import Recipe


def smoke() -> Recipe:
    """Seconds, no evidence: gradients like that of xIELU, which is planted."""
    return Recipe(
        "smoke", GradientSpace(pieces=2, terms=2), "evolution", evaluations=120,
        rungs=(gaussian_rung(), planted_rung("xielu")),
        objectives=("cost", "saved_bytes", "active"),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {"smoke": smoke}
