"""What the formula alone does not give: values at nan and at infinities, and the compute width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sympy as sp

from integrand.derivation.lower import Lowering
from integrand.derivation.measure import sweep
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.pieces import draws
from integrand.derivation.program import Program, evaluate, operands
from integrand.spec import Spec

_FAR = "1000000000000"
_FARTHER = (1e12, 1e16, 1e24, 1e36, 1e60)


def lower(spec: Spec, exprs: Mapping[str, Any], tables: Mapping[str, Any]) -> Program:
    """The scalar program of the expressions `f`, `df`, `d_NAME`, guarded where it is needed."""
    lowering = Lowering(tables)
    x = lowering.op("x")
    outputs = {name: lowering.expr(e, x) for name, e in exprs.items()}
    params = tuple(spec.params)
    plain = lowering.program(params, outputs, wide=False)
    for name in ("f", "df"):
        outputs[name] = _guarded(spec, lowering, plain, exprs[name], name, outputs[name])
    narrow = lowering.program(params, outputs, wide=False)
    wide = any(e.has(sp.sin, sp.cos) for e in exprs.values()) or not _narrow_suffices(spec, narrow)
    return lowering.program(params, outputs, wide=wide)


def _run(program: Program, bits: int, x: Any, values: Mapping[str, float], name: str) -> Any:
    o = NumpyOps(bits)
    points = o.array(x)
    params = {k: o.array(v) for k, v in values.items()}
    with np.errstate(all="ignore"):
        (y,) = evaluate(program, o, points, params, [name])
    return np.broadcast_to(y, points.shape).astype(np.float64)


def _guarded(
    spec: Spec, lowering: Lowering, program: Program, expr: Any, name: str, out: int
) -> int:
    """The output with a select for nan and for each infinity the formula gets wrong."""
    samples = [v for _, v in zip(range(4), draws(spec), strict=False)]
    x = lowering.op("x")
    if any(not np.isnan(_run(program, b, [np.nan], v, name)[0]) for v in samples for b in (32, 64)):
        out = lowering.op("select", lowering.op("call", "isnan", x), x, out)
    wrong: dict[int, int] = {}
    for sign in (-1, 1):
        kinds = {
            _limit_kind(_run(program, 64, sign * np.array(_FARTHER), v, name)) for v in samples
        }
        kind = "none" if "none" in kinds else "unbounded" if "unbounded" in kinds else "finite"
        expected = [_limit(program, sign, kind, v, name) for v in samples]
        got = [[_run(program, b, [sign * np.inf], v, name)[0] for b in (32, 64)] for v in samples]
        close = all(
            np.allclose(pair, want, rtol=1e-6, atol=1e-30, equal_nan=True)
            for pair, want in zip(got, expected, strict=True)
        )
        if not close:
            wrong[sign] = _limit_op(lowering, expr, sign, kind)
    if not wrong:
        return out
    low, high = wrong.get(-1, out), wrong.get(1, out)
    limit = lowering.op("select", lowering.op("lt", lowering.op("const", "0"), x), high, low)
    return lowering.op("select", lowering.op("call", "isinf", x), limit, out)


def _limit_kind(values: np.ndarray) -> str:
    """How a function behaves far out: `finite`, `unbounded` or `none` (it oscillates)."""
    if np.isnan(values).any():
        values = values[~np.isnan(values)]
    with np.errstate(invalid="ignore"):
        steps = np.diff(values)
    if np.isinf(values).any() or (len(values) > 2 and abs(values[-1]) > abs(values[0]) + 1 and (
        (steps > 0).all() or (steps < 0).all()
    )):  # fmt: skip
        return "unbounded"
    if len(values) and np.allclose(values, values[-1], rtol=1e-9, atol=1e-11):
        return "finite"
    return "none"


def _limit(program: Program, sign: int, kind: str, values: Mapping[str, float], name: str) -> float:
    if kind == "none":
        return float("nan")
    far = float(_run(program, 64, [sign * float(_FAR)], values, name)[0])
    return float(np.copysign(np.inf, far)) if kind == "unbounded" else far


def _limit_op(lowering: Lowering, expr: Any, sign: int, kind: str) -> int:
    if kind == "none":
        return lowering.op("const", "nan")
    # the formula at a far constant does not depend on x: it is computed once per call
    far = lowering.expr(expr, lowering.op("const", _FAR if sign > 0 else f"-{_FAR}"))
    if kind == "finite":
        return far
    zero, oo = lowering.op("const", "0"), lowering.op("const", "inf")
    return lowering.op("select", lowering.op("lt", zero, far), oo, lowering.op("const", "-inf"))


def largest_term(program: Program, env: Mapping[int, Any], i: int) -> Any:
    """Largest addend in size of the sum that op i is, looking through selects and nested sums."""
    op = program.ops[i]
    if op[0] in ("add", "sub"):
        return np.maximum(*(largest_term(program, env, j) for j in operands(op)))
    if op[0] == "select":
        a, b = (largest_term(program, env, j) for j in op[2:])
        return np.where(env[op[1]], a, b)
    return np.abs(env[i])


def _narrow_suffices(spec: Spec, program: Program) -> bool:
    """Whether fp32 evaluation is good enough for both half precisions, compared with fp64."""
    points = sweep()
    for _, values in zip(range(3), draws(spec), strict=False):
        for name in program.outputs:
            narrow = _run(program, 32, points, values, name)
            wide = _run(program, 64, points, values, name)
            if name.startswith("d_"):
                bad = np.isnan(narrow) & ~np.isnan(wide) & (np.abs(points) < 1e18)
            else:
                band = _band(program, points, values, name)
                allowed = 2.0**-14 * np.abs(wide) + 2.0**-23 * band + 2.0**-136
                overflow = np.isinf(narrow) & (np.abs(wide) > 1.7e38)
                with np.errstate(invalid="ignore"):
                    bad = ~(np.abs(narrow - wide) <= allowed) & ~overflow
            if bad.any():
                return False
    return True


def _band(program: Program, points: np.ndarray, values: Mapping[str, float], name: str) -> Any:
    o = NumpyOps(64)
    names = [f"#{i}" for i in program.needed([name])]
    probe = Program(
        program.params, program.ops, {n: int(n[1:]) for n in names}, program.tables, program.wide
    )
    params = {k: o.array(v) for k, v in values.items()}
    with np.errstate(all="ignore"):
        env = evaluate(probe, o, o.array(points), params, names)
        return largest_term(
            program, {int(n[1:]): v for n, v in zip(names, env, strict=True)}, program.outputs[name]
        )
