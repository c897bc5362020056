"""Fields of a config that must lie in a range: one table per class, checked when it is made."""

from collections.abc import Callable, Mapping
from typing import Any

from integrand.errors import Error

Range = tuple[str, Callable[[Any], bool]]  # in words, and whether a value (not NaN) lies in it
Ranges = Mapping[str, Range]

AT_LEAST_1: Range = ("at least 1", lambda value: value >= 1)
NOT_NEGATIVE: Range = ("0 or above", lambda value: value >= 0)
ABOVE_0: Range = ("above 0", lambda value: value > 0)
SHARE: Range = ("between 0 and 1", lambda value: 0 <= value <= 1)


def check_ranges(config: object, ranges: Ranges) -> None:
    """Raise an Error for the first field of the table that lies outside its range."""
    for name, (words, holds) in ranges.items():
        if not holds(value := getattr(config, name)):
            raise Error(f"{name} must be {words}, got {value}; change it")
