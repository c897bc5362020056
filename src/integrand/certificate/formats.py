"""Floating-point formats: bit patterns, spacing at a real value, neighbours, rounding intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from integrand.errors import CertificationError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Format:
    """A binary format: `precision` bits of significand, smallest normal number 2**`emin`."""

    dtype: torch.dtype
    precision: int
    emin: int

    @property
    def name(self) -> str:
        """The dtype's name without `torch.`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(torch.finfo(self.dtype).max)

    @property
    def half(self) -> bool:
        """Whether all its bit patterns can be tried."""
        return self.dtype in (torch.bfloat16, torch.float16)

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Parameters are fp32, in fp64 programs fp64."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def patterns(self) -> torch.Tensor:
        """All 65,536 bit patterns of a half-precision format, as a tensor of it."""
        return torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(self.dtype)

    def spacing(self, value: Array) -> Array:
        """The distance between neighbouring numbers of the format at a real value, subnormal
        range included; beyond the range as if the exponent had no upper end."""
        finite = np.where(np.isfinite(value), value, self.largest)
        exponent = np.frexp(finite)[1] - 1
        exponent = np.where(finite == 0, self.emin, np.maximum(exponent, self.emin))
        return np.ldexp(1.0, exponent - (self.precision - 1))

    def neighbour(self, value: float, up: bool) -> float:
        """The next number of the format above or below one of its numbers."""
        start = torch.tensor(value, dtype=self.dtype)
        end = torch.tensor(math.inf if up else -math.inf, dtype=self.dtype)
        return float(torch.nextafter(start, end))

    def round(self, value: float) -> float:
        """A real value rounded to nearest, ties to even."""
        return float(torch.tensor(value, dtype=torch.float64).to(self.dtype))


FORMATS = {
    f.dtype: f
    for f in (
        Format(torch.bfloat16, 8, -126),
        Format(torch.float16, 11, -14),
        Format(torch.float32, 24, -126),
        Format(torch.float64, 53, -1022),
    )
}


def format_of(dtype: torch.dtype) -> Format:
    """The format of a dtype. Raises `CertificationError` for one that is not certified."""
    if dtype not in FORMATS:
        known = ", ".join(f.name for f in FORMATS.values())
        raise CertificationError(f"a certificate needs one of the dtypes {known}, got {dtype}")
    return FORMATS[dtype]


def normal_mass(x: Array) -> Array:
    """The N(0, 1) mass of the rounding interval of every finite x: what share of normal
    pre-activations, rounded to the format, equals it. Equal values share their interval."""
    finite = np.isfinite(x)
    values, inverse, counts = np.unique(x[finite], return_inverse=True, return_counts=True)
    edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    # the tails are differences of small numbers, so each side is taken from its own end
    below = torch.special.ndtr(torch.from_numpy(edges)).numpy()
    above = torch.special.ndtr(torch.from_numpy(-edges)).numpy()
    mass = np.where(values < 0, np.diff(below), -np.diff(above))
    width = np.minimum(np.diff(edges), 1.0)
    # about 0 the distribution function hides what the density shows
    density = np.exp(-np.square(np.clip(values, -40, 40)) / 2) / np.sqrt(2 * np.pi)
    mass = np.where(width < 1e-6, density * width, mass)
    weights = np.zeros(x.shape)
    weights[finite] = (mass / counts)[inverse]
    return weights
