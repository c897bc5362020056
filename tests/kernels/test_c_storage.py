"""Half formats in C: every pattern, every rounding."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest
import torch

from integrand.kernels.c_build import library
from integrand.kernels.c_print import prelude

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def compiled() -> ctypes.CDLL:
    def loop(name: str, source: str, target: str, call: str) -> str:
        return (
            f"void {name}(const {source} *x, {target} *y, int64_t n) "
            f"{{ for (int64_t i = 0; i < n; i++) y[i] = {call}; }}"
        )

    lines = [loop("narrowed", "double", "float", "narrow(x[i])")]
    for half in TYPES:
        lines.append(loop(f"load_all_{half}", "uint16_t", "float", f"load_{half}(x[i])"))
        lines.append(loop(f"store_all_{half}", "float", "uint16_t", f"store_{half}(x[i])"))
    return library("\n".join([prelude(), *lines]))


def run(name: str, x: np.ndarray, dtype: type) -> np.ndarray:
    y = np.empty(len(x), dtype)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y)]
    getattr(compiled(), name)(*pointers, ctypes.c_int64(len(x)))
    return y


def as_bits(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("half", TYPES)
def test_every_pattern_survives_a_round_trip(half: str) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    wide = run(f"load_all_{half}", patterns, np.float32)
    expected = torch.from_numpy(patterns.view(np.int16)).view(TYPES[half]).float().numpy()
    np.testing.assert_array_equal(wide, expected)
    back = run(f"store_all_{half}", wide, np.uint16)
    nan = np.isnan(wide)
    np.testing.assert_array_equal(back[~nan], patterns[~nan])
    assert np.isnan(run(f"load_all_{half}", back[nan], np.float32)).all()


@pytest.mark.parametrize("half", TYPES)
def test_storing_rounds_to_nearest_even(half: str) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    wide = run(f"load_all_{half}", patterns, np.float32)
    wide = np.sort(wide[np.isfinite(wide)])
    middle = ((wide[1:].astype(np.float64) + wide[:-1]) / 2).astype(np.float32)
    beyond = np.array([65519.9, 65520.0, 65535.9, 65536.0, 3.4e38, np.inf, 1e-45], np.float32)
    x = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, 1), beyond, -beyond])
    x = x.astype(np.float32)
    expected = as_bits(torch.from_numpy(x).to(TYPES[half]))
    np.testing.assert_array_equal(run(f"store_all_{half}", x, np.uint16), expected)


def test_narrowing_then_storing_rounds_once() -> None:
    # just off the middle of two bf16 neighbours, closer to it than fp32 can tell
    middle = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 2.0**100 * (1 + 2**-8)], np.float64)
    for nudge, neighbour in ((1 - 2**-40, 0), (1 + 2**-40, 1)):
        narrow = run("narrowed", middle * nudge, np.float32)
        stored = run("store_all_bf16", narrow, np.uint16).astype(np.int32)
        low = as_bits(torch.from_numpy(middle).float().to(torch.bfloat16)).astype(np.int32)
        # truncation of the middle gives the neighbour closer to 0
        truncated = (middle.astype(np.float32).view(np.uint32) >> 16).astype(np.int32)
        np.testing.assert_array_equal(stored, truncated + neighbour)
        assert np.all(np.abs(stored - low) <= 1)


def test_narrowing_keeps_what_fp32_holds() -> None:
    x = np.array([0.0, -0.0, 1.5, 1e-45, 3e38, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(run("narrowed", x.astype(np.float64), np.float32), x)
