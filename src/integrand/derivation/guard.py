"""What the formula alone does not give: values at nan and at infinities, and the compute width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from integrand.derivation.lower import Lowering
from integrand.derivation.measure import sweep
from integrand.derivation.near import NearAnchor, cancelling
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.pieces import draws
from integrand.derivation.program import Program, evaluate, operands
from integrand.derivation.signs import one_sided
from integrand.derivation.symbols import X
from integrand.spec import Spec

_FARTHER = np.array([1e12, 1e16, 1e24, 1e36, 1e60, 1e100])
# beyond the first a constant is lost, also of a parameter of 1e-28 times x; 2^12 scales x at most
_FAR, _NEARER = 2.0**116, 2.0**-12
_HUGE = np.array([1e30, 1e33, 1e36, 1e37, 1e38, 2e38, 3e38, 3.4e38])


def lower(spec: Spec, exprs: Mapping[str, Any], tables: Mapping[str, Any]) -> Program:
    """The scalar program of the expressions `f`, `df`, `d_NAME`, guarded where it is needed."""
    slopes = cancelling(spec, exprs["f"])
    if not any(e.has(sp.sin, sp.cos) for e in exprs.values()):
        # a fold brings back what a constant carries beyond the largest number, not any parameter
        scaled = any(_scaled_inside(e) for e in exprs.values())
        for how in _NARROW:
            if how.folded and scaled:
                continue
            program = _lower(spec, exprs, tables, slopes, how)
            # what is new against overflow must not cost fp32 its own accuracy
            if _narrow_suffices(spec, program, strict=how.spread or how.folded):
                return program
    return _lower(spec, exprs, tables, slopes, _How(wide=True))


@dataclass(frozen=True)
class _How:
    """What a program does against overflow.

    `early`: the limit before infinity, where 0 * inf is all that fp32 lacks. `spread`: division by
    powers factor by factor. `folded`: huge x brought nearer by a power of 2, where f grows like x
    or like a constant. `wide`: fp64.
    """

    early: bool = False
    spread: bool = False
    folded: bool = False
    wide: bool = False


_NARROW = (_How(), _How(early=True), _How(spread=True), _How(folded=True))


def _lower(
    spec: Spec,
    exprs: Mapping[str, Any],
    tables: Mapping[str, Any],
    slopes: Mapping[Any, Any],
    how: _How,
) -> Program:
    lowering = NearAnchor(spec, tables, slopes, spread=how.spread, wide=how.wide)
    x = lowering.op("x")
    params = tuple(spec.params)
    outputs = {name: lowering.expr(e, x) for name, e in exprs.items()}
    plain = lowering.program(params, outputs, how.wide)
    if how.folded:
        degrees = {name: [_degree(spec, plain, name, sign) for sign in (-1, 1)] for name in outputs}
        if None not in (*degrees["f"], *degrees["df"]):
            outputs = _folded(lowering, exprs, degrees)
            plain = lowering.program(params, outputs, how.wide)
    if spec.kind == "gradient" and _has_constant(exprs["f"]):
        outputs["f"] = _anchored(spec, lowering, outputs["f"], spec.anchor[1])
    for name in _undefined_at_anchor(spec, plain):
        outputs[name] = _anchored(spec, lowering, outputs[name], 0)
    for name in ("f", "df"):
        out = _guarded(spec, lowering, plain, exprs[name], name, outputs[name], how.early)
        outputs[name] = out
    return one_sided(lowering.program(params, outputs, how.wide))


def _scaled_inside(expr: Any) -> bool:
    """Whether a parameter scales x inside a function or a power: by how much, only a call knows."""
    inside = (
        m
        for node in sp.preorder_traversal(expr)
        if isinstance(node, sp.Function | sp.Pow | sp.Integral)
        if not isinstance(node, sp.Piecewise)
        for argument in node.args
        for m in sp.preorder_traversal(argument)
        if isinstance(m, sp.Mul | sp.Pow)
    )
    return any(X in m.free_symbols and m.free_symbols - {X} for m in inside)


def _degree(spec: Spec, program: Program, name: str, sign: int) -> int | None:
    """0 or 1 where an output grows like that power of x beyond _FAR, to the precision of fp64."""
    points = sign * _FAR * 2.0 ** np.array([0, 1, 6, 11])
    fits = {0, 1}
    for _, values in zip(range(4), draws(spec), strict=False):
        far, near = (_run(program, 64, p, values, name) for p in (points, points * _NEARER))
        fits = {d for d in fits if np.allclose(far * _NEARER**d, near, rtol=2.0**-52, atol=0)}
    return min(fits, default=None)


def _folded(
    lowering: Lowering, exprs: Mapping[str, Any], degrees: Mapping[str, list[int | None]]
) -> dict[str, int]:
    """The outputs at x * _NEARER beyond _FAR, brought back on the sides where they grow."""
    x, far = lowering.op("x"), lowering.op("const", repr(_FAR))
    nearer, farther = (lowering.op("const", repr(c)) for c in (_NEARER, 1 / _NEARER))
    left = lowering.op("lt", x, lowering.op("const", repr(-_FAR)))
    right = lowering.op("lt", far, x)
    either = lowering.op("lt", far, lowering.op("call", "abs", x))
    moved = lowering.op("select", either, lowering.op("mul", x, nearer), x)
    outputs = {}
    for name, e in exprs.items():
        out = lowering.expr(e, x if None in degrees[name] else moved)
        grows = [d == 1 for d in degrees[name]]
        if any(grows) and None not in degrees[name]:
            where = either if all(grows) else left if grows[0] else right
            out = lowering.op("select", where, lowering.op("mul", out, farther), out)
        outputs[name] = out
    return outputs


def _has_constant(f: Any) -> bool:
    """Whether a piece of f subtracts a constant: rounding may leave a rest at the anchor."""
    if isinstance(f, sp.Piecewise):
        return any(_has_constant(value) for value, _ in f.args)
    return any(X not in t.free_symbols and t != 0 for t in sp.Add.make_args(f))


def _undefined_at_anchor(spec: Spec, plain: Program) -> list[str]:
    """The partials that the formula leaves undefined where f is fixed, and which are 0 there:
    x**p*log(x) for the p of x**p."""
    point = spec.anchor[0]
    if spec.kind != "gradient" or isinstance(point, str):
        return []
    names = [name for name in plain.outputs if name.startswith("d_")]
    return [n for n in names if not np.isfinite(_run(plain, 64, [point], spec.values(), n)).all()]


def _anchored(spec: Spec, lowering: Lowering, out: int, value: float) -> int:
    """An output with its value at the anchor exactly, whatever the compiler fuses."""
    point = spec.anchor[0]
    if isinstance(point, str):
        return out
    x, at = lowering.op("x"), lowering.const(sp.Rational(str(point)))
    here = lowering.op("and", lowering.op("le", x, at), lowering.op("le", at, x))
    return lowering.op("select", here, lowering.const(sp.Rational(str(value))), out)


def _run(program: Program, bits: int, x: Any, values: Mapping[str, float], name: str) -> Any:
    o = NumpyOps(bits)
    points = o.array(x)
    params = {k: o.array(v) for k, v in values.items()}
    with np.errstate(all="ignore"):
        (y,) = evaluate(program, o, points, params, [name])
    return np.broadcast_to(y, points.shape).astype(np.float64)


def _guarded(
    spec: Spec, lowering: Lowering, program: Program, expr: Any, name: str, out: int, early: bool
) -> int:
    """The output with a select for nan and for each infinity the formula gets wrong."""
    samples = [v for _, v in zip(range(4), draws(spec), strict=False)]
    x = lowering.op("x")
    if any(not np.isnan(_run(program, b, [np.nan], v, name)[0]) for v in samples for b in (32, 64)):
        out = lowering.op("select", lowering.op("call", "isnan", x), x, out)
    for sign in (-1, 1):
        limits = [_limit(_run(program, 64, sign * _FARTHER, v, name)) for v in samples]
        got = [[_run(program, b, [sign * np.inf], v, name)[0] for b in (32, 64)] for v in samples]
        right = all(
            np.allclose(pair, limit, rtol=1e-6, atol=1e-46, equal_nan=True)
            for pair, limit in zip(got, limits, strict=True)
        )
        overflows = early and _overflows(program, sign, samples, name)
        if right and not overflows:
            continue
        edge = np.inf
        if all(np.array_equal(limit, limits[0], equal_nan=True) for limit in limits):
            limit = lowering.op("const", repr(float(limits[0])))
            if overflows and _settled(program, sign, samples, name, limits[0]):
                edge = _HUGE[0]
        elif right:
            continue
        else:
            limit = _limit_op(lowering, expr, sign)
        bound = lowering.op("const", repr(float(sign * edge)))
        beyond = lowering.op("le", *((bound, x) if sign > 0 else (x, bound)))
        out = lowering.op("select", beyond, limit, out)
    return out


def _limit(values: np.ndarray) -> float:
    """The limit that values ever farther out tend to; nan where they oscillate."""
    values = values[~np.isnan(values)]
    with np.errstate(invalid="ignore"):
        steps = np.diff(values)
    if not len(values):
        return float("nan")
    growing = abs(values[-1]) > abs(values[0]) + 1 and ((steps >= 0).all() or (steps <= 0).all())
    if np.isinf(values).any() or (len(values) > 2 and growing):
        return float(np.copysign(np.inf, values[-1]))
    if np.allclose(values, values[-1], rtol=1e-9, atol=1e-5):
        # what still decays at 1e100 has the limit 0
        return float(values[-1]) if abs(values[-1]) > 1e-40 else 0.0
    return float("nan")


def _overflows(
    program: Program, sign: int, samples: Sequence[Mapping[str, float]], name: str
) -> bool:
    """Whether fp32 gives nan on huge finite x: 0 * inf where an argument overflowed."""
    return any((np.isnan(_run(program, 32, sign * _HUGE, v, name))).any() for v in samples)


def _settled(
    program: Program, sign: int, samples: Sequence[Mapping[str, float]], name: str, limit: float
) -> bool:
    """Whether the function equals its limit in fp64 from 1e30 on."""
    return all((_run(program, 64, sign * _HUGE, v, name) == limit).all() for v in samples)


def _limit_op(lowering: Lowering, expr: Any, sign: int) -> int:
    """The limit as a function of the parameters, from the formula at two far constants.

    It does not depend on x: it is computed once per call.
    """
    far, near = (
        lowering.expr(expr, lowering.op("const", f"{'-' if sign < 0 else ''}{n}"))
        for n in (10**12, 10**6)
    )
    zero, oo = lowering.op("const", "0"), lowering.op("const", "inf")
    size, before = (lowering.op("call", "abs", v) for v in (far, near))
    slack = lowering.op("const", "0.001")
    bound = lowering.op("add", lowering.op("mul", before, lowering.op("const", "1.001")), slack)
    infinite = lowering.op("select", lowering.op("lt", zero, far), oo, lowering.op("const", "-inf"))
    return lowering.op("select", lowering.op("lt", bound, size), infinite, far)


def largest_term(program: Program, env: Mapping[int, Any], i: int) -> Any:
    """Largest addend in size of the sum that op i is, looking through selects and nested sums."""
    op = program.ops[i]
    if op[0] in ("add", "sub"):
        return np.maximum(*(largest_term(program, env, j) for j in operands(op)))
    if op[0] == "select":
        a, b = (largest_term(program, env, j) for j in op[2:])
        return np.where(env[op[1]], a, b)
    return np.abs(env[i])


def _narrow_suffices(spec: Spec, program: Program, strict: bool) -> bool:
    """Whether fp32 evaluation is good enough for both half precisions, compared with fp64; with
    `strict` for fp32 too: 4 ulp times max(1, |x g'/g|), or of the largest term."""
    points = sweep(fine=True)
    for draw, values in zip(range(3), draws(spec), strict=False):
        for name in program.outputs:
            narrow = _run(program, 32, points, values, name)
            wide = _run(program, 64, points, values, name)
            if name.startswith("d_"):
                bad = np.isnan(narrow) & ~np.isnan(wide)
            else:
                band = _band(program, points, values, name)
                # terms may cancel next to a root alone
                condition = _condition(program, points, values, name, wide)
                allowed = 2.0**-12.5 * np.abs(wide) + 2.0**-136
                allowed = allowed + np.where(condition >= 2.0**8, 0.9 * 2.0**-22 * band, 0.0)
                if strict:
                    terms = np.maximum(np.maximum(condition, 1) * np.abs(wide), band)
                    allowed = np.minimum(allowed, 2.0**-22 * terms + 2.0**-147)
                # beyond half the largest number the value may overflow; a term of it, for values of
                # parameters other than the initial ones
                huge = np.maximum(np.abs(wide), band) if draw else np.abs(wide)
                overflow = np.isinf(narrow) & (huge > 1.7e38)
                with np.errstate(invalid="ignore"):
                    bad = ~(np.abs(narrow - wide) <= allowed) & ~overflow
            if bad.any():
                return False
    return True


def _condition(
    program: Program, points: np.ndarray, values: Mapping[str, float], name: str, value: np.ndarray
) -> np.ndarray:
    """|x g'(x) / g(x)| of an output g: at least 2^8 where a root is closer than about |x| / 2^8."""
    step = 2.0**-20
    up, down = (_run(program, 64, points * (1 + s * step), values, name) for s in (1, -1))
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.abs((up - down) / (2 * step * value)), nan=1.0, posinf=1e300)


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
