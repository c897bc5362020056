"""The derivation against what it was given: integrals, partials, anchors, paths, refusals."""

import pytest
import sympy as sp
from mpmath import mp

from integrand.derivation import derive as cached
from integrand.derivation.derive import derive_program
from integrand.derivation.exact import exact, integrals
from integrand.derivation.multiprecision import evaluate_expr
from integrand.derivation.symbols import X, symbols
from integrand.derivation.verify import _finite
from integrand.errors import DerivationError, Error, SpecError
from integrand.spec import Param, Spec

positive = Param(1.3, above=0)
GRADIENTS = [
    ("exp(x)/(1+exp(x))", {}, "known integral"),
    ("1-exp(-x) if x>0 else 0", {}, "known integral"),
    ("tanh(k*x)", {"k": positive}, "known integral"),
    ("a*sigmoid(k*(x-b))", {"a": Param(1.0), "k": positive, "b": Param(0.5)}, "known integral"),
    ("max(0, min(1, 0.2*x+0.5))", {}, "powers of x"),
    ("relu(x)**2 - 0.1*relu(-x)", {}, "powers of x"),
    ("abs(x)**1.5", {}, "powers of x"),
    ("x**p if x > 0 else 0", {"p": positive}, "powers of x"),
    # the formula of the integral has no value where its pieces meet, its limit there does
    ("x**2*log(x) if x > 0 else 0", {}, None),
    ("0 if x >= 0 else -k*x*log(-k*x)", {"k": positive}, None),
    ("sqrt(1+x**2)", {}, None),
    ("x*sigmoid(k*x)", {"k": positive}, "table"),
    ("softplus(x)", {}, "table"),
    # the catalogue's own, whose derivation takes 10 s
    ("1/(1+(x/a)**8)", {"a": Param(2, above=0)}, "table"),
    ("exp(-x**2/(2*s**2))", {"s": positive}, "known integral"),
    ("exp(a*x)*sigmoid(x)", {"a": Param(0.3)}, "fixed-node quadrature"),
    ("0 if x < t else k*(x-t)", {"t": Param(0.3), "k": positive}, "powers of x"),
    ("0 if x < l else (1 if x > u else (x-l)/(u-l))",
     {"l": Param(-1.0), "u": Param(1.0, above="l")}, "powers of x"),
    ("softsign(x) if x > t else 0", {"t": Param(0.5)}, "known integral"),
    ("softsign(x - 1)", {}, "known integral"),
    ("a*softsign(k*x + b)", {"a": Param(0.5), "k": positive, "b": Param(-0.7)}, "known integral"),
    ("x*softsign(x - 1)**3", {}, "known integral"),
    ("a*x**2/(x + b)**3 if x > 0 else 0", {"a": Param(0.5), "b": positive}, "known integral"),
    ("(2*x - 1)/(3 - x) if x < 0 else -1/3", {}, "known integral"),
    # the formula beyond 1 has no value at the anchor
    ("1/x**2 if x > 1 else 1", {}, "powers of x"),
    ("min(x, sigmoid(x))", {}, "known integral"),
    ("sin(w*x)**2 + x", {"w": positive}, "known integral"),
    ("tanh(50*x)", {}, "known integral"),
    ("sigmoid(x-100)", {}, "known integral"),
    ("min(max(x,-1), tanh(2*x)+0.1)", {}, "known integral"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "params", "path"), GRADIENTS, ids=[g[0] for g in GRADIENTS])
def test_f_is_the_integral_of_the_declared_gradient(text, params, path):
    spec = Spec(name="s", gradient=text, params=params)
    derivation = derive_program(spec)
    f, df = (derivation.expression(spec, name) for name in ("f", "df"))
    if path is not None:
        assert path in derivation.path
    # other points than the derivation's own check uses
    points = [mp.mpf(p) for p in ("-4.7", "-0.9", "-0.02", "0.07", "1.9", "6.3")]
    with mp.workdps(24):
        values = {k: mp.mpf(repr(v)) for k, v in spec.values().items()}
        env = {s: values[name] for name, s in symbols(spec).items()}
        for x, truth in zip(points, integrals(spec, points, values, mp), strict=True):
            error = abs(evaluate_expr(f, {X: x, **env}, mp) - truth)
            assert error <= 1e-12 * max(abs(truth), abs(x))
            slope = exact(spec.node, x, values, mp)
            assert abs(evaluate_expr(df, {X: x, **env}, mp) - slope) <= 1e-15 * (1 + abs(slope))
        # a constant subtracted from a piece leaves the working precision's own rounding
        assert abs(evaluate_expr(f, {X: mp.mpf(0), **env}, mp)) <= mp.mpf("1e-22")


def test_xielu_comes_out_in_its_stable_form():
    spec = Spec(
        name="xielu",
        gradient="2*p*x + b if x > 0 else n*expm1(x) + b",
        params={"p": Param(0.8), "n": Param(0.8), "b": Param(0.5)},
    )
    assert derive_program(spec).formula == "b*x + p*x**2 if x > 0 else b*x + n*expm1mx(x)"


def test_a_quotient_of_affine_terms_is_integrated_from_where_it_starts():
    kink = Spec(name="s", gradient="(x - 1)/x if x > 1 else 0")
    assert derive_program(kink).formula == "xmlog1p(x - 1) if x > 1 else 0"
    shifted = Spec(name="s", gradient="1/(x + 3) if x > 0 else 1/3")
    assert derive_program(shifted).formula == "log1p(x/3) if x > 0 else x/3"


@pytest.mark.parametrize(
    ("gradient", "anchor", "x", "expected"),
    [
        ("sigmoid(x)", ("-oo", 0), -40, lambda: mp.log1p(mp.exp(-40))),
        ("sigmoid(x)", (1, 3), 1, lambda: mp.mpf(3)),
        ("1/(1+x**2)", ("oo", 2), 0, lambda: 2 - mp.pi / 2),
        ("exp(x) if x < 0 else 1", ("-oo", 0), -3, lambda: mp.exp(-3)),
    ],
)
def test_the_anchor_fixes_the_constant(gradient, anchor, x, expected):
    spec = Spec(name="s", gradient=gradient, anchor=anchor)
    f = derive_program(spec).expression(spec, "f")
    with mp.workdps(30):
        truth = expected()
        assert abs(evaluate_expr(f, {X: mp.mpf(x)}, mp) - truth) <= mp.mpf("1e-25") * abs(truth)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"gradient": "1/x"}, SpecError, "not at x = 0"),
        ({"gradient": "1/(x-0.3)**2"}, SpecError, "must be finite"),
        ({"gradient": "1/(x**2-2)"}, SpecError, "must be finite|without bound"),
        ({"gradient": "log(x)"}, SpecError, "must be finite and real"),
        ({"gradient": "exp(x**2)"}, DerivationError, "no closed integral"),
        ({"gradient": "(x-1)*log(x-1) if x > 1 else x"}, DerivationError, "pieces meet"),
        ({"gradient": "1 if x < 1 else 2 if x < 0 else 3"}, SpecError, "out of order"),
        ({"function": "1 if x > 0 else 0"}, SpecError, "must not jump"),
        ({"gradient": "softplus(x)", "anchor": ("oo", 0)}, DerivationError, "no finite limit"),
        (
            {"gradient": "0 if x < a else 1 if x > b else 0.5",
             "params": {"a": Param(-1.0), "b": Param(1.0)}},
            SpecError, "need an order",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_is_refused_in_one_sentence(fields, error, message):
    with pytest.raises(error, match=message) as caught:
        derive_program(Spec(name="s", **fields))
    assert "\n" not in str(caught.value)


def test_a_wrong_integral_is_caught_by_quadrature(monkeypatch):
    from integrand.derivation import integrate

    monkeypatch.setitem(integrate.KNOWN, sp.tanh(X), X * 0)
    with pytest.raises(Error, match="deviates"):
        cached._derive(Spec(name="s", gradient="tanh(x)"))


@pytest.mark.parametrize("shift", ["3", "1", "-2"])
def test_the_anchor_value_is_exact_in_every_implementation(shift):
    torch = pytest.importorskip("torch")
    from integrand import derive

    act = derive(Spec(name="s", gradient=f"exp(-(x-({shift}))**2)"))
    for impl in ("reference", "c"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            assert act(torch.zeros(3, dtype=dtype), impl=impl).tolist() == [0.0] * 3


@pytest.mark.parametrize("impl", ["reference", "c"])
@pytest.mark.parametrize(
    ("gradient", "params", "limits"),
    [
        ("atan(x)", {}, (float("inf"), float("inf"))),
        ("1/(1+(x/a)**8)", {"a": Param(2, above=0)}, (-2.0523443059540618, 2.0523443059540618)),
        ("softplus(x)", {}, (-0.8224670334241132, float("inf"))),
    ],
)
def test_tables_have_their_limits_at_infinity(gradient, params, limits, impl):
    torch = pytest.importorskip("torch")
    from integrand import derive

    act = derive(Spec(name="s", gradient=gradient, params=params))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.tensor([-torch.inf, torch.inf, torch.nan], dtype=dtype)
        low, high, nan = act(x, impl=impl).tolist()
        assert (low, high) == tuple(torch.tensor(limits, dtype=torch.float64).to(dtype).tolist())
        assert nan != nan


@pytest.mark.parametrize("gradient", ["exp(-x**4)*tanh(x)", "2*x"])
def test_a_derivation_without_time_left_says_so(gradient, monkeypatch, tmp_path):
    from integrand.derivation import budget, integrate

    # another test may have derived it already
    monkeypatch.setenv("INTEGRAND_CACHE", str(tmp_path))
    monkeypatch.setattr(budget, "SECONDS", 0.0)
    monkeypatch.setattr(integrate, "_closed", lambda *_: None)
    with pytest.raises(DerivationError, match=r"deriving '.*' must take less than 0 s"):
        derive_program(Spec(name="s", gradient=gradient))


def test_quadrature_stays_where_the_gradient_is_finite():
    spec = Spec(name="s", gradient="exp(exp(x))")
    points = [mp.mpf(p) for p in (-17, 2, 6, 17, 2**14)]
    assert _finite(spec, points, {}) == points[:3]
    assert _finite(Spec(name="s", function="exp(exp(x))"), points, {}) == points
