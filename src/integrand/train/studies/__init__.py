"""Matched studies: variants x seeds x sizes, and from their records to verdicts."""

from integrand.train.studies.plan import Cell, Plan, Rung, due
from integrand.train.studies.rates import best_rate
from integrand.train.studies.recipes import ladder, smoke, studies
from integrand.train.studies.statistics import min_detectable_effect, paired, seeds_needed
from integrand.train.studies.summary import summarise
from integrand.train.studies.work import check_rung, run_study, time_rung

__all__ = [
    "Cell",
    "Plan",
    "Rung",
    "best_rate",
    "check_rung",
    "due",
    "ladder",
    "min_detectable_effect",
    "paired",
    "run_study",
    "seeds_needed",
    "smoke",
    "studies",
    "summarise",
    "time_rung",
]
