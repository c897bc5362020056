"""df from y = f(x): found where f has an inverse, confirmed, refused with the reason elsewhere."""

import numpy as np
import pytest

import integrand as ig
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import evaluate
from integrand.spec import Param, Spec

FORMULAS = {
    "relu": "1 if y > 0 else 0",
    "relu2": "2*sqrt(y) if y > 0 else 0",
    "leaky_relu": "1 if y > 0 else a",
    "softplus": "-expm1(-max(y, 0))",
    "elu": "1 if y >= 0 else alpha + max(y, -alpha)",
    "hardtanh": "0 if y >= 1 else 1 if y > -1 else 0",
    "symlog": "exp(-y) if y >= 0 else exp(y)",
}
REFUSED = {
    "silu": "changes sign",
    "gelu": "changes sign",
    "xielu": "changes sign",
    "prelu": "bound the parameters",
    "laplace": "no closed form",
    "integral_softplus": "tabulated",
}


@pytest.mark.parametrize("name", FORMULAS)
def test_df_in_terms_of_the_output(name):
    assert ig.activation(name).inverse.formulas["df"] == FORMULAS[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_without_inverse_is_refused_with_the_reason(name):
    inverse = ig.activation(name).inverse
    assert inverse.program is None
    assert REFUSED[name] in inverse.reason


SPECS = {
    "falling": Spec(name="falling", function="-tanh(x) - 0.1*x"),
    "falling pieces": Spec(name="falling_pieces", gradient="-2*x - 1 if x > 0 else -exp(x)"),
    "jump of the gradient": Spec(name="jump", gradient="2 if x >= 1 else 0.5"),
    "trainable slope": Spec(
        name="slope", gradient="1 if x > 0 else a", params={"a": Param(0.3, above=0)}
    ),
    "trainable scale": Spec(
        name="scale", function="tanh(k*x)", params={"k": Param(1.3, above=0)}
    ),
    "parameter breakpoint": Spec(
        name="moved", gradient="1 if x > t else 0", params={"t": Param(0.5)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", SPECS)
def test_outputs_of_the_inverse_are_those_of_the_program(key):
    act = ig.derive(SPECS[key])
    if key == "falling":
        assert "no closed form" in act.inverse.reason
        return
    if key == "parameter breakpoint":
        # f(0) = 0 lies on one side of t or the other
        assert "breakpoints depends on its parameters" in act.inverse.reason
        return
    assert not act.inverse.reason
    o, x = NumpyOps(64), np.array([-3.0, -1.0, -0.25, 0.0, 0.25, 0.999, 1.0, 1.001, 3.0])
    values = {k: o.array(v) for k, v in act.spec.values().items()}
    names = ["df", *(f"d_{p}" for p in act.spec.params)]
    f, *truth = evaluate(act.program, o, x, values, ["f", *names])
    got = evaluate(act.inverse.program, o, f, values, names)
    for a, b in zip(got, truth, strict=True):
        # y near the end of its range is rounded: 2^-52 of it against df = 1 - y^2 > 1e-4
        np.testing.assert_allclose(np.broadcast_to(a, x.shape), b, rtol=1e-11, atol=1e-14)


def test_the_inverse_is_stored_and_read_back(monkeypatch):
    act = ig.activation("tanh")
    first = act.inverse
    from integrand.derivation import invert

    monkeypatch.setattr(invert, "_invert", None)
    again = invert.invert(act.spec, act.derivation)
    assert again == first
