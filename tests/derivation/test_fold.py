"""A folded program computes the same with nothing left to set."""

import numpy as np
import pytest

import integrand as ig
from integrand.derivation.fold import folded
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import Program, evaluate

X = np.concatenate([np.linspace(-9, 9, 181), [0.0, np.inf, -np.inf, np.nan]])


def run(program: Program, values: dict[str, float]) -> list[np.ndarray]:
    params = {k: np.float64(v) for k, v in values.items()}
    with np.errstate(all="ignore"):
        return evaluate(program, NumpyOps(64), X, params, ["f", "df"])


@pytest.mark.parametrize("name", ["xielu", "xssslupr", "smooth_leaky", "integral_smooth_leaky"])
def test_f_and_df_are_those_of_the_values(name: str) -> None:
    act = ig.activation(name)
    values = act.spec.values()
    flat = folded(act.program, values)
    assert not flat.params and set(flat.outputs) == {"f", "df"}
    for got, want in zip(run(flat, {}), run(act.program, values), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)


def test_what_depends_on_values_alone_becomes_one_constant() -> None:
    act = ig.activation("xielu")
    flat = folded(act.program, {"alpha_p": 1.7, "alpha_n": 0.9, "beta": 0.5})
    uniform = {flat.ops[i][0] for i in flat.uniform() & set(flat.needed(flat.outputs))}
    assert uniform == {"const"}
    # f' = 2 alpha_p x + beta
    assert ("const", repr(3.4)) in flat.ops


def test_a_branch_that_values_rule_out_is_gone_and_may_divide_by_zero() -> None:
    ops = (
        ("x",),
        ("param", "a"),
        ("const", "0"),
        ("div", 0, 1),
        ("div", 2, 1),
        ("lt", 1, 2),
        ("add", 3, 4),
        ("select", 5, 6, 0),
    )
    program = Program(("a",), ops, {"f": 7, "df": 7, "d_a": 0})
    taken = folded(program, {"a": 0.0})
    assert taken.ops[taken.outputs["f"]] == ("x",)
    kept = folded(program, {"a": -2.0})
    assert kept.ops == (("x",), ("const", "-2.0"), ("div", 0, 1), ("const", "0.0"), ("add", 2, 3))
