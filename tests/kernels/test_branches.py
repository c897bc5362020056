"""What is known inside a branch, and about signs, changes no result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import integrand as ig
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import Program, evaluate
from integrand.derivation.signs import one_sided
from integrand.kernels import c
from integrand.kernels.branches import resolved

# x clamped into the piece x <= 0, exp(x) - 1 there, x beyond
OPS = (
    *(("x",), ("const", "0"), ("lt", 1, 0), ("select", 2, 1, 0)),
    *(("call", "expm1", 3), ("select", 2, 0, 4)),
)
ELU = Program((), OPS, {"f": 5, "df": 4})
POINTS = np.array([-np.inf, -1e30, -87.0, -0.3, -0.0, 0.0, 0.3, 90.0, np.inf, np.nan])


def run(program: Program, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        (y,) = evaluate(program, NumpyOps(64), POINTS, {}, [name])
    return y


def test_a_branch_runs_on_x_itself_where_its_condition_is_known() -> None:
    program = Program((), OPS, {"f": 5})
    found = resolved(program)
    assert ("call", "expm1", found.ops.index(("x",))) in found.ops
    np.testing.assert_array_equal(run(found, "f"), run(program, "f"))


def test_a_value_that_branches_share_is_not_computed_twice() -> None:
    shared = Program((), (*OPS, ("add", 4, 5)), {"f": 6, "df": 4})
    assert resolved(shared) == shared


def test_an_argument_that_is_never_positive_takes_the_cheaper_primitive() -> None:
    found = one_sided(ELU)
    assert ("call", "expm1_left", 3) in found.ops
    np.testing.assert_allclose(run(found, "f"), run(ELU, "f"), rtol=1e-15)
    # nothing is known of a parameter: a caller may pass any value
    scaled = Program(("k",), (*OPS[:4], ("param", "k"), ("mul", 3, 4), ("call", "expm1", 5)), {})
    assert one_sided(scaled).ops == scaled.ops


@pytest.mark.parametrize("condition, allowed", [(("lt", 0, 1), False), (("le", 1, 0), True)])
def test_a_branch_tells_the_sign_on_its_own_side_only(
    condition: tuple[str, int, int], allowed: bool
) -> None:
    ops = (("x",), ("const", "0"), condition, ("select", 2, 1, 0), ("call", "expm1", 3))
    assert (("call", "expm1_left", 3) in one_sided(Program((), ops, {"f": 4})).ops) == allowed


def test_bfloat16_nans_stay_nan_whatever_their_digits() -> None:
    patterns = torch.arange(0x7F81, 0x8000, dtype=torch.int32)
    x = torch.cat([patterns, patterns - 0x8000]).to(torch.int16).view(torch.bfloat16)
    act = ig.activation("xielu")
    params = [torch.tensor([v]) for v in act.spec.values().values()]
    assert c.load(act.program, torch.bfloat16).forward(x, params).isnan().all()
    odd = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    y = c.load(act.program, torch.bfloat16).forward(x.nan_to_num(), [odd] * 3)
    assert y.isnan().all()
