from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import integrand as ig
from integrand.certificate import certify, transformers_xielu, xielu_values
from integrand.certificate.formats import format_of
from integrand.errors import CertificationError, SpecError

from .conftest import PROGRAM, HandMade, df64, f64

Params = dict[str, torch.Tensor]
PAIRS = [(0.8, 0.8), (0.05, 0.51), (10, 10), (166, 41.25)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_correct_implementation_is_certified(
    xielu: HandMade, dtype: torch.dtype, pair: tuple[float, float]
) -> None:
    cert = certify(xielu, dtype, {"alpha_p": pair[0], "alpha_n": pair[1]})
    assert cert.ok, str(cert)
    assert cert.checked == 65536 and cert.exhaustive
    # rounding once, from fp64, costs half an ulp and nothing else
    assert 0.49 < cert.max_ulp_f < 0.51 and 0.49 < cert.max_ulp_df < 0.51
    assert cert.wrong_signs == cert.nonfinite == 0
    assert cert.compared_with_text > 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_dtypes_are_sampled_within_4_ulp(xielu: HandMade, dtype: torch.dtype) -> None:
    cert = certify(xielu, dtype)
    assert cert.ok, str(cert)
    assert not cert.exhaustive and cert.max_ulp_f <= 4 and cert.max_ulp_df <= 4


def only(cert: Any, part: str) -> None:
    """The certificate fails, and for this reason alone."""
    assert not cert.ok
    assert [r for r in cert.reasons if part not in r] == [], cert.reasons
    assert cert.reasons


def at(x: torch.Tensor, place: float, value: torch.Tensor | float, good: torch.Tensor) -> Any:
    return torch.where(x == place, torch.as_tensor(value, dtype=x.dtype), good)


def test_two_ulp_at_one_pattern_fail(defective: type[HandMade]) -> None:
    def f(x: torch.Tensor, p: Params) -> torch.Tensor:
        # f(1.5) = 2.55, where bf16 numbers are 2^-6 apart
        return at(x, 1.5, 2.55 + 2 * 2.0**-6, f64(x, p))

    cert = certify(defective(f=f))
    only(cert, "f is off by more than allowed at 1 points, worst at x = 1.5")
    assert 1.4 < cert.max_ulp_f < 2.6 and cert.worst_x == 1.5
    assert cert.failures[0].x == 1.5 and cert.regions[0].low == cert.regions[0].high == 1.5


def test_a_wrong_sign_near_zero_fails(defective: type[HandMade]) -> None:
    def df(x: torch.Tensor, p: Params) -> torch.Tensor:
        return torch.where((x > -1e-6) & (x < 0), -df64(x, p), df64(x, p))

    cert = certify(defective(df=df))
    only(cert, "df has the wrong sign")
    patterns = format_of(torch.bfloat16).patterns().double()
    assert cert.wrong_signs == int(((patterns > -1e-6) & (patterns < 0)).sum())


def test_an_infinity_below_half_the_range_fails(defective: type[HandMade]) -> None:
    def f(x: torch.Tensor, p: Params) -> torch.Tensor:
        return torch.where(x > 1e18, math.inf, f64(x, p))

    only(certify(defective(f=f)), "f is infinite or NaN where it must be finite")


def test_an_infinity_beyond_half_the_range_is_allowed(defective: type[HandMade]) -> None:
    def f(x: torch.Tensor, p: Params) -> torch.Tensor:
        y = f64(x, p)
        return torch.where(y > 3.3895e38 / 2, math.inf, y)

    assert certify(defective(f=f)).ok


@pytest.mark.parametrize("output", ["f", "df"])
def test_a_swallowed_nan_fails(defective: type[HandMade], output: str) -> None:
    good = {"f": f64, "df": df64}[output]
    act = defective(**{output: lambda x, p: good(x, p).nan_to_num(0, math.inf, -math.inf)})
    cert = certify(act)
    only(cert, f"{output}: NaN in must give NaN out")
    assert cert.nonfinite == 254


def test_a_wrong_value_at_an_infinity_fails(defective: type[HandMade]) -> None:
    def df(x: torch.Tensor, p: Params) -> torch.Tensor:
        return torch.where(x == -math.inf, math.nan, df64(x, p))

    only(certify(defective(df=df)), "df: at an infinity: the limit")


def test_an_anchor_one_subnormal_off_fails(defective: type[HandMade]) -> None:
    # within 1 ulp, so that only the rule for the anchor sees it
    only(
        certify(defective(f=lambda x, p: at(x, 0, 2.0**-133, f64(x, p)))),
        "f must take its anchor value exactly",
    )


def test_a_slope_one_ulp_off_at_the_breakpoint_fails(defective: type[HandMade]) -> None:
    only(
        certify(defective(df=lambda x, p: at(x, 0, 0.5 + 2.0**-8, df64(x, p)))),
        "f' at a breakpoint must equal the declared gradient",
    )


def test_a_wrong_parameter_gradient_fails(defective: type[HandMade]) -> None:
    act = defective()
    act.scale = {"alpha_n": 1.0001}
    cert = certify(act)
    only(cert, "the gradient by alpha_n is off")
    assert cert.max_param_error is not None and cert.max_param_error > 1e-5


def test_a_program_that_contradicts_the_text_fails(defective: type[HandMade]) -> None:
    # twice the slope of the negative branch: implementation and program agree, the text does not
    ops = list(PROGRAM.ops)
    ops[11] = ("call", "expm1", 10)
    program = replace(PROGRAM, ops=tuple(ops))
    cert = certify(defective(program=program))
    assert any("the derived program is wrong: f(" in r for r in cert.reasons)


def test_a_wrong_partial_in_the_program_fails(defective: type[HandMade]) -> None:
    ops = list(PROGRAM.ops)
    ops[21] = ("add", 0, 0)
    cert = certify(defective(program=replace(PROGRAM, ops=tuple(ops))))
    assert any("the partial derivative by alpha_p is wrong" in r for r in cert.reasons)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_dtypes_fail_ten_ulp_off(defective: type[HandMade], dtype: torch.dtype) -> None:
    factor = 1 + 10 * torch.finfo(dtype).eps
    cert = certify(
        defective(df=lambda x, p: torch.where(x > 1, factor * df64(x, p), df64(x, p))), dtype
    )
    only(cert, "df is off by more than allowed")
    assert cert.regions[0].output == "df" and cert.regions[0].low > 1


def test_transformers_defect_is_reported_with_its_own_values(xielu: HandMade) -> None:
    pytest.importorskip("transformers")
    module = transformers_xielu(torch.bfloat16)
    cert = certify(xielu, candidate=module, params=xielu_values(module))
    assert cert.subject == "XIELUActivation" and cert.impl == "candidate" and not cert.ok
    wrong = [f for f in cert.failures if f.output == "df" and -0.9e-6 < f.x <= 0]
    assert wrong and all(abs(f.got - (-0.3)) < 0.002 for f in wrong)
    assert all(abs(f.expected - 0.5) < 1e-5 for f in wrong)
    region = next(r for r in cert.regions if r.output == "df")
    assert -1e-6 < region.low < -0.9e-6 and region.high == 0
    # two fifths of the patterns, yet a modest error on average over normal inputs
    assert 0.40 < cert.share_off_f < 0.43 and 0.40 < cert.share_off_df < 0.43
    assert cert.mean_ulp_f is not None and cert.mean_ulp_f < 2
    assert cert.max_param_error is None


def test_the_distribution_weighs_what_occurs(defective: type[HandMade]) -> None:
    def f(x: torch.Tensor, p: Params) -> torch.Tensor:
        return torch.where(x > 1, 1.02, 1.0) * f64(x, p)

    cert = certify(defective(f=f))
    # 2 % is at least 2.56 ulp, and P(N(0, 1) > 1) = 0.1587
    assert cert.mass_off_f == pytest.approx(0.1587, abs=0.002)
    assert cert.mass_off_df == 0


def test_the_dictionary_is_json_with_the_published_keys(xielu: HandMade) -> None:
    row = json.loads(json.dumps(certify(xielu).to_dict(), allow_nan=False))
    keys = "name dtype impl compiled params ok max_ulp_f max_ulp_df wrong_signs nonfinite worst_x"
    assert set(keys.split()) <= set(row)
    assert row["dtype"] == "bfloat16" and row["params"]["beta"] == 0.5


def test_bad_requests_are_refused(xielu: HandMade) -> None:
    with pytest.raises(SpecError, match="'gamma' is not a parameter of xielu"):
        certify(xielu, params={"gamma": 1.0})
    with pytest.raises(SpecError, match="must be a finite number"):
        certify(xielu, params={"alpha_p": math.nan})
    with pytest.raises(CertificationError, match="needs one of the dtypes"):
        certify(xielu, dtype=torch.int8)
    with pytest.raises(CertificationError, match="same shape and dtype"):
        certify(xielu, candidate=lambda x: x.float())
    with pytest.raises(CertificationError, match="must be differentiable"):
        certify(xielu, candidate=lambda x: x.detach() + 1)


# torch's compiler warns about a deprecated part of torch while it is imported
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_the_compiled_function_is_certified_too() -> None:
    good = certify(ig.activation("xielu"), compiled=True, thorough=False)
    assert good.ok and good.compiled, str(good)
