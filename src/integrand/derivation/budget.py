"""The processor time that one derivation may take, checked where multi-precision work is done."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from integrand.errors import DerivationError

SECONDS = 60.0
_limit: ContextVar[tuple[float, str]] = ContextVar("limit", default=(math.inf, ""))


@contextmanager
def limited(text: str) -> Iterator[None]:
    """Within: `check` raises when this thread has computed for SECONDS."""
    token = _limit.set((time.thread_time() + SECONDS, text))
    try:
        yield
    finally:
        _limit.reset(token)


def check() -> None:
    """DerivationError where the time is over."""
    deadline, text = _limit.get()
    if time.thread_time() > deadline:
        raise DerivationError(
            f"deriving '{text}' must take less than {SECONDS:.0f} s of processor time and did not:"
            " write it more simply, put numbers in place of parameters, or declare function="
        )
