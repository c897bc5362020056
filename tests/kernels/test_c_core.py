"""The C functions of the core and of every primitive, against their exact meanings."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest
from mpmath import mp

from integrand.derivation.primitives import LEFT, PRIMITIVES
from integrand.kernels.c_build import library
from integrand.kernels.c_core import Functions
from integrand.kernels.c_print import prelude

JOINTS = (0.35, 0.5, 0.65, 0.7072, 1, 1.4143, 1.5, 1.75, 2.4142, 15, 45, 64, 87.4, 88.7, 103.9, 512)
JOINTS += (709.7, 745, 1e5, 1e30)


@cache
def compiled(bits: int) -> ctypes.CDLL:
    """Every primitive as `run_NAME(x, y, n)`, and `run_pow(x, p, y, n)`."""
    functions = Functions(rounded=bits == 32)
    names = {name: functions(name, bits) for name in [*PRIMITIVES, "pow"]}
    real = "float" if bits == 32 else "double"
    loops = [
        f"void run_{name}(const {real} *x, {real} *y, int64_t n) "
        f"{{ for (int64_t i = 0; i < n; i++) y[i] = {call}(x[i]); }}"
        for name, call in names.items()
        if name != "pow"
    ]
    loops.append(
        f"void run_pow(const {real} *x, const {real} *p, {real} *y, int64_t n) "
        f"{{ for (int64_t i = 0; i < n; i++) y[i] = {names['pow']}(x[i], p[i]); }}"
    )
    return library("\n".join([prelude(), *functions.text.values(), *loops]))


def run(name: str, bits: int, *arrays: np.ndarray) -> np.ndarray:
    y = np.empty_like(arrays[0])
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, y)]
    getattr(compiled(bits), f"run_{name}")(*pointers, ctypes.c_int64(len(y)))
    return y


@cache
def points(bits: int) -> np.ndarray:
    dtype = np.dtype(f"float{bits}")
    generator = np.random.default_rng(11)
    patterns = (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)
    patterns = generator.permutation(patterns[np.isfinite(patterns)])[:300]
    joints = np.array([s * j for j in JOINTS for s in (1, -1)], dtype)
    info = np.finfo(dtype)
    edges = np.array([info.max, -info.max, info.tiny, info.smallest_subnormal, 0.0, -0.0], dtype)
    tail = generator.uniform(-108, 90, 200) if bits == 32 else generator.uniform(-750, 712, 200)
    parts = [patterns, generator.normal(size=300) * 2, tail, joints, edges]
    parts += [np.nextafter(joints, dtype.type(1)), generator.uniform(0, 3, 200)]
    return np.concatenate([p.astype(dtype) for p in parts])


def ulps(got: float, exact: object, bits: int) -> float:
    precision, smallest, top = (24, -149, 128) if bits == 32 else (53, -1074, 1024)
    exact = mp.mpf(exact)
    if mp.isnan(exact) or mp.isinf(exact):
        return 0.0 if np.array_equal(got, float(exact), equal_nan=True) else float("inf")
    if abs(exact) >= mp.mpf(2) ** top * (1 - mp.mpf(2) ** -precision / 2):
        return 0.0 if np.isinf(got) and (got > 0) == (exact > 0) else float("inf")
    if not np.isfinite(got):
        return float("inf")
    exponent = max(int(mp.mag(exact)) - precision, smallest) if exact else smallest
    return float(abs(mp.mpf(float(got)) - exact) / mp.mpf(2) ** exponent)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_primitive_in_c_is_within_its_stated_ulps(name: str, bits: int) -> None:
    x = points(bits)
    if name in ("sin", "cos"):
        # beyond, kernels call the C library's: see test_c.py
        x = x[np.abs(x) <= 1e6]
    if name.endswith(LEFT):
        x = x[x <= 0]
    y = run(name, bits, x)
    with mp.workprec(100):
        exact = [PRIMITIVES[name].meaning(mp, mp.mpf(float(a))) for a in x]
        errors = [ulps(b, e, bits) for b, e in zip(y, exact, strict=True)]
    worst = int(np.argmax(errors))
    row = PRIMITIVES[name]
    assert errors[worst] <= (row.ulp32 if bits == 32 else row.ulp64), float(x[worst])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_primitive_in_c_has_its_limits(name: str, bits: int) -> None:
    x = np.array([-np.inf, np.nan, np.inf][: 2 if name.endswith(LEFT) else 3], f"float{bits}")
    with mp.workprec(60):
        exact = [float(PRIMITIVES[name].meaning(mp, mp.mpf(float(v)))) for v in x]
    np.testing.assert_array_equal(run(name, bits, x), np.array(exact, x.dtype))


@pytest.mark.parametrize("bits", [32, 64])
def test_pow_in_c_is_right_for_every_sign(bits: int) -> None:
    base = [0.0, 1e-40, 0.3, 1.0, 1.7, 30.0, -0.3, -1.7, -30.0, np.inf]
    exponent = [0.0, 0.5, 1.0, 3.0, 2.5, 4.0, -1.0, -2.5, 17.0]
    x, p = np.array(np.meshgrid(base, exponent), f"float{bits}").reshape(2, -1)
    with mp.workprec(100), np.errstate(all="ignore"):
        exact = [
            float(np.power(a, b))
            if not (a and np.isfinite(a)) or (a < 0 and b != np.rint(b))
            else mp.power(mp.mpf(float(a)), mp.mpf(float(b)))
            for a, b in zip(x, p, strict=True)
        ]
        errors = [ulps(v, e, bits) for v, e in zip(run("pow", bits, x, p), exact, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= 1.0, (float(x[worst]), float(p[worst]))
