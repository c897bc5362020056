"""What a kernel costs, and what it says of one that is not certified."""

import dataclasses
import math
import pickle

import pytest
import torch

import integrand as ig
from integrand.certificate import certify
from integrand.errors import Error
from integrand.search import kernel_rung as module
from integrand.search.candidate import Candidate
from integrand.search.kernel_rung import KernelRung, kernel_rung
from integrand.spec import Spec

QUICK = KernelRung(shape=(8, 512), rounds=2)
LEAKY = Candidate(Spec(name="g", gradient="1 if x > 0 else a", params={"a": ig.Param(0.1)}), ())


def test_a_kernel_is_certified_and_timed() -> None:
    found = QUICK(LEAKY)
    assert found["certified"] == 1.0 and found["max_ulp_f"] <= 1 and found["max_ulp_df"] <= 1
    # x in bf16, and the one fp32 parameter
    assert found["saved_bytes"] == pytest.approx(2 + 4 / (8 * 512))
    assert found["score"] == found["both_ratio"] > 0
    assert 0 < found["forward_ns"] < found["both_ns"]


def test_a_failed_certificate_is_told_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> object:
        good = certify(*args, **kwargs)  # pyrefly: ignore
        return dataclasses.replace(good, ok=False, max_ulp_f=math.inf)

    monkeypatch.setattr(module, "certify", failing)
    found = QUICK(LEAKY)
    assert found["certified"] == 0.0 and "max_ulp_f" not in found
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize("gradient", ["sigmoid(x + 1)", "sigmoid(x)"])
def test_cancellation_next_to_0_is_seen(gradient: str) -> None:
    act = ig.derive(Spec(name="g", gradient=gradient))
    x = 2.0**-60
    exact = x / (1 + math.exp(-1 if "1" in gradient else 0))
    off = abs(float(act(torch.tensor([x], dtype=torch.bfloat16))) - exact)
    assert module._cancels(act) == (off > 2.0**-7 * exact)


def test_what_cannot_be_derived_is_refused() -> None:
    with pytest.raises(Error):
        QUICK(Candidate(Spec(name="g", function="x if x > 0 else x + 1"), ()))


def test_the_rung_goes_to_a_child_process() -> None:
    assert pickle.loads(pickle.dumps(kernel_rung())) == kernel_rung()
