"""What derivation makes of each row: f, f' and every partial against the published formula."""

import numpy as np
import pytest
from mpmath import mp

from integrand.derivation.derive import derive_program
from integrand.derivation.numeric import NumpyOps
from integrand.derivation.program import evaluate
from integrand.spec import names, row

# their published form is a quadrature, slow to differentiate, in mpmath's time
SLOW = {"integral_mish": 2, "integral_elephant8": 2, "sau": 3, "integral_cauchy": 3,
        "integral_smooth_leaky": 4, "integral_erf": 4, "integral_gem1": 4}  # fmt: skip


@pytest.fixture(autouse=True)
def thirty_digits(fifty_digits):
    """1e-13 is judged; mp.diff computes in twice the digits, and quadrature pays for each."""
    with mp.workdps(30):
        yield


def program_values(name, x, values):
    """f, df and the partials of the scalar program, in fp64."""
    program = derive_program(row(name).spec).program
    o = NumpyOps(64)
    params = {k: o.array(float(v)) for k, v in values.items()}
    outputs = list(program.outputs)
    with np.errstate(all="ignore"):  # branches not taken may be anything
        results = evaluate(program, o, o.array([float(x)]), params, outputs)
    return {k: float(np.ravel(v)[0]) for k, v in zip(outputs, results, strict=True)}


@pytest.mark.parametrize("name", names())
def test_program_agrees_with_the_published_formula(name, published, cases):
    f = published[name]
    for x, values, _ in cases(name, SLOW.get(name, 12)):
        # what fp64 can represent
        x = mp.mpf(float(x))
        values = {k: mp.mpf(float(v)) for k, v in values.items()}

        def at(t, name=None, values=values, x=x):
            moved = values if name is None else {**values, name: t}
            return f(t if name is None else x, type("Values", (), moved))

        got = program_values(name, x, values)
        want, slope = at(x), mp.diff(at, x)
        # 1e-13 of the function, and of what one rounding of the input changes
        assert abs(got["f"] - want) <= 1e-13 * max(abs(want), abs(x), abs(x * slope))
        assert abs(got["df"] - slope) <= 1e-12 * max(1, abs(slope), abs(x))
        for param in values:
            partial = mp.diff(lambda t, param=param: at(t, param), values[param])
            size = max(1, abs(partial), abs(want), abs(x))
            assert abs(got[f"d_{param}"] - partial) <= 1e-12 * size


def test_aglu_has_the_logarithmic_term_of_its_derivative_in_lam():
    """Values by finite differences in multi-precision; omitting the term gives -0.347, -1.153."""
    for x, lam, kappa, want in ((0.7, 0.5, 1.1, 0.0373894), (2.0, 0.2, 1.0, 0.0154649)):
        got = program_values("aglu", x, {"lam": lam, "kappa": kappa})["d_lam"]
        assert abs(got - want) < 1e-6


def test_sau_is_the_convolution_for_every_sharpness():
    """At 0 it is (1 - a)/(b sqrt(2 pi)); a form without the 1/b gives 0.359 here."""
    got = program_values("sau", 0.0, {"a": 0.1, "b": 3.0})["f"]
    assert abs(got - 0.9 / (3 * np.sqrt(2 * np.pi))) < 1e-15
