"""The running error analysis is sound, and tables evaluate as their docstring says."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from mpmath import mp

from integrand.derivation.numeric import NumpyOps, evaluate_with_bound
from integrand.derivation.primitives import PRIMITIVES
from integrand.derivation.program import Op, Program, operands
from integrand.derivation.table import Table

SQUARE = Table(
    name="square",
    lo=-2,
    hi=1,
    split=1,
    # u * P(|u| / 2**lo) = u |u|
    near=((0.0, 0.25), (0.0, 0.25)),
    middle=tuple(
        tuple(
            (s * c * c, s * 2 * c * h, s * h * h)
            for octave in (0.25, 0.5, 1.0)
            for c, h in ((1.25 * octave, 0.25 * octave), (1.75 * octave, 0.25 * octave))
        )
        for s in (-1, 1)
    ),
    growth=((-1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
    far=((0.0,), (0.0,)),
)


def exact(program: Program, x: Any, params: dict[str, Any]) -> dict[int, Any]:
    """Every op of the program in multi-precision."""
    env: dict[int, Any] = {}
    binary = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "pow": lambda a, b: mp.power(a, b),
        "min": min,
        "max": max,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "and": lambda a, b: a and b,
        "select": lambda c, a, b: a if c else b,
    }
    for i, op in enumerate(program.ops):
        match op[0]:
            case "x":
                env[i] = x
            case "param":
                env[i] = params[op[1]]
            case "const":
                env[i] = mp.mpf(op[1])
            case "call":
                env[i] = PRIMITIVES[op[1]].meaning(mp, env[op[2]])
            case name:
                env[i] = binary[name](*(env[j] for j in operands(op)))
    return env


def random_program(seed: int) -> Program:
    """A straight line of random ops on x and one parameter that stays in every domain."""
    generator = np.random.default_rng(seed)
    ops: list[Op] = [("x",), ("param", "a"), ("const", "0.1"), ("const", "1"), ("mul", 0, 1)]
    # booleans feed selects alone: all later operands are drawn from the other ops
    ops.append(("lt", 4, 2))
    unary = ["expm1", "tanh", "erf", "ndtr", "softplus", "sin", "atan", "logcosh", "sigmoid"]
    for _ in range(10):
        kind = generator.choice(["add", "sub", "mul", "call", "min", "max", "select", "safe"])
        n = len(ops)
        i, j = (int(k) for k in generator.choice([k for k in range(n) if k != 5], 2))
        if kind == "call":
            ops.append(("call", str(generator.choice(unary)), i))
        elif kind == "select":
            ops.append(("select", 5, i, j))
        elif kind == "safe":
            ops += [("mul", i, i), ("add", n, 3), ("div", j, n + 1), ("pow", n + 1, 2)]
        else:
            ops.append((str(kind), i, j))
    return Program(("a",), tuple(ops), {"f": len(ops) - 1})


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_holds_against_multi_precision(seed: int) -> None:
    program = random_program(seed)
    x = np.random.default_rng(seed).normal(size=25) * 3
    (value,), (bound,) = evaluate_with_bound(program, x, {"a": 0.7}, ["f"])
    with mp.workprec(200):
        for v, e, point in zip(
            np.broadcast_to(value, 25), np.broadcast_to(bound, 25), x, strict=True
        ):
            truth = exact(program, mp.mpf(float(point)), {"a": mp.mpf(0.7)})
            assert abs(mp.mpf(float(v)) - truth[program.outputs["f"]]) <= e


def test_the_bound_is_useful_for_a_short_formula() -> None:
    ops: tuple[Op, ...] = (("x",), ("call", "tanh", 0), ("mul", 0, 1))
    x = np.linspace(-5, 5, 101)
    (value,), (bound,) = evaluate_with_bound(Program((), ops, {"f": 2}), x, {}, ["f"])
    # tanh in 3 ulp, at most 2**-52 relative each, and one product
    assert np.all(bound <= 8 * 2.0**-53 * np.abs(value) + 2.0**-1070)


def test_a_product_of_fp32_numbers_is_known_to_be_exact() -> None:
    program = Program(("a",), (("x",), ("param", "a"), ("mul", 0, 1)), {"f": 2})
    x = np.array([3.4e38, -1.1, 0.1, 1e-45, -7e-46, 0.0], np.float32).astype(np.float64)
    a = float(np.float32(0.7))
    (value,), (bound,) = evaluate_with_bound(program, x, {"a": a}, ["f"])
    assert np.all(bound == 0)
    assert [Fraction(v) for v in value] == [Fraction(v) * Fraction(a) for v in x]
    # a factor of more bits, and one whose error is not 0
    for factor, exact_x in ((0.7, x), (a, x + 2.0**-40)):
        _, (bound,) = evaluate_with_bound(program, exact_x, {"a": factor}, ["f"])
        assert np.all(bound > 0)


def test_a_table_is_bounded_by_the_growth_of_its_own_side() -> None:
    table = replace(SQUARE, growth=((0.0,) * 4, SQUARE.growth[1]), far=((-4.0,), (0.0,)))
    program = Program((), (("x",), ("table", 0, 0)), {"f": 1}, (table,))
    (value,), (bound,) = evaluate_with_bound(program, np.array([-1e9, 1e9]), {}, ["f"])
    assert value.tolist() == [-4.0, 1e18]
    assert 0 < bound[0] < 1e-12 and 1e4 < bound[1] < 1e6


def test_an_uncertain_comparison_covers_both_branches() -> None:
    # 0.1 + 0.2 < 0.3 is false exactly, and fp64 cannot tell
    ops: tuple[Op, ...] = (
        ("x",),
        ("const", "0.1"),
        ("const", "0.2"),
        ("add", 1, 2),
        ("const", "0.3"),
        ("lt", 3, 4),
        ("const", "5"),
        ("select", 5, 6, 0),
    )
    (value,), (bound,) = evaluate_with_bound(Program((), ops, {"f": 7}), np.array([1.0]), {}, ["f"])
    assert abs(value[0] - 1.0) <= bound[0] and abs(value[0] - 5.0) <= bound[0]


def test_what_is_not_finite_is_not_bounded() -> None:
    ops: tuple[Op, ...] = (("x",), ("call", "exp", 0), ("div", 0, 1))
    x = np.array([np.nan, np.inf, -np.inf, 800.0])
    _, (bound,) = evaluate_with_bound(Program((), ops, {"f": 2}), x, {}, ["f"])
    assert np.all(bound[:3] == np.inf)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_table_of_the_signed_square_squares(bits: int) -> None:
    o = NumpyOps(bits)
    x = o.array(
        [0, 0.1, 0.25, 0.3, 0.49, 0.5, 0.77, 1, 1.5, 1.99, 2, 3, 1e10, -0.1, -0.4, -1.2, -7]
    )
    # one polynomial of degree 2: three roundings
    tolerance = 6 * float(np.finfo(x.dtype).eps)
    np.testing.assert_allclose(o.table(SQUARE, x), x * np.abs(x), rtol=tolerance, atol=1e-30)
    limits = o.table(SQUARE, o.array([np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(limits, o.array([np.inf, -np.inf, np.nan]))
