"""What a variant would reach at another budget: between two complete schedules of the same seed.

A loss read off midway is that of a rate that has not decayed, so that a short run, with the whole
schedule at a fraction of the tokens, stands for the smaller budget. Between the two the loss is
taken as linear in log tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

from integrand.errors import Error

# how far beyond the two budgets, as a factor of tokens, the line between them is trusted
REACH = 1.5


class NotMeasured(Error):
    """A comparison that these records cannot make, and why."""


def slope(short: Mapping[str, Any], main: Mapping[str, Any]) -> float:
    """d loss / d ln tokens between the two runs: below 0 where more tokens help."""
    if main["tokens"] <= short["tokens"]:
        raise NotMeasured(
            f"the short arm must have fewer tokens than the main arm, got {short['tokens']} and "
            f"{main['tokens']}"
        )
    return (main["loss"] - short["loss"]) / math.log(main["tokens"] / short["tokens"])


def loss_at(short: Mapping[str, Any], main: Mapping[str, Any], factor: float) -> float:
    """The loss after `factor` times the tokens of the main run."""
    _within_reach(short, main, factor)
    return main["loss"] + slope(short, main) * math.log(factor)


def log_tokens_to(short: Mapping[str, Any], main: Mapping[str, Any], loss: float) -> float:
    """ln of the factor of the main run's tokens at which this loss is reached."""
    steepness = slope(short, main)
    if steepness >= 0:
        raise NotMeasured(f"seed {main['seed']}: more tokens did not lower the loss")
    log_factor = (loss - main["loss"]) / steepness
    # far out of reach exp would overflow
    _within_reach(short, main, math.exp(min(log_factor, 50.0)))
    return log_factor


def _within_reach(short: Mapping[str, Any], main: Mapping[str, Any], factor: float) -> None:
    least = short["tokens"] / main["tokens"] / REACH
    if not least <= factor <= REACH:
        raise NotMeasured(
            f"seed {main['seed']} would need {factor:.3g} times the tokens, more than {REACH} times"
            f" beyond the trained budgets ({least * REACH:.3g} and 1)"
        )
