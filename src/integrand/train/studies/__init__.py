"""From the records of matched studies to verdicts."""

from integrand.train.studies.rates import best_rate
from integrand.train.studies.statistics import min_detectable_effect, paired, seeds_needed
from integrand.train.studies.summary import summarise

__all__ = ["best_rate", "min_detectable_effect", "paired", "seeds_needed", "summarise"]
