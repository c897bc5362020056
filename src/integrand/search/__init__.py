"""Search for activations in spaces of gradients and functions."""

from integrand.search.candidate import Candidate, Space
from integrand.search.controller import Controller
from integrand.search.engine import search
from integrand.search.equivalence import Seen, same, signature
from integrand.search.evolution import Evolution
from integrand.search.function_space import function_space
from integrand.search.gaussian import Gaussian, gaussian
from integrand.search.gradient_space import GradientSpace
from integrand.search.loop import Evaluation, evaluations
from integrand.search.pareto import Archive, dominates, scalar
from integrand.search.profile import Profile, profile
from integrand.search.recipe import Recipe
from integrand.search.rung import Rung
from integrand.search.strategy import Exhaustive, Random, Standing, Strategy
from integrand.search.templates import read_space
from integrand.search.validity import Validity, validity

__all__ = [
    "Archive", "Candidate", "Controller", "Evaluation", "Evolution", "Exhaustive", "Gaussian",
    "GradientSpace", "Profile", "Random", "Recipe", "Rung", "Seen", "Space", "Standing", "Strategy",
    "Validity", "dominates", "evaluations", "function_space", "gaussian", "profile", "read_space",
    "same", "scalar", "search", "signature", "validity",
]  # fmt: skip
