"""Paired timing against named baselines; no speed without a certificate."""

from integrand.timing.benchmark import bench, table
from integrand.timing.memory import saved_bytes
from integrand.timing.pairing import paired, ratio

__all__ = ["bench", "paired", "ratio", "saved_bytes", "table"]
