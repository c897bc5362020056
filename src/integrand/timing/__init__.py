"""Paired timing against named baselines; no speed without a certificate."""

from integrand.timing.benchmark import KERNEL, SHAPES, USER, bench, table
from integrand.timing.campaign import campaign, known_rows
from integrand.timing.memory import saved_bytes
from integrand.timing.pairing import paired, ratio

__all__ = [
    "KERNEL",
    "SHAPES",
    "USER",
    "bench",
    "campaign",
    "known_rows",
    "paired",
    "ratio",
    "saved_bytes",
    "table",
]
