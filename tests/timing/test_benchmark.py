from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import integrand as ig
from integrand.errors import CertificationError, SpecError
from integrand.spec import row
from integrand.timing import KERNEL, USER, bench, benchmark, table
from integrand.timing.baselines import _PEERS, Entry, baselines
from integrand.timing.cost import causes
from integrand.timing.naive import naive

QUICK = {"shapes": [(64, 64)], "rounds": 2, "warmup": 1, "dtypes": [torch.bfloat16], "cases": USER}


def test_rows_have_the_published_keys() -> None:
    act = ig.activation("xielu")
    rows = bench(act, impls=["reference"], against=["silu", "reference"], **QUICK)
    rows = json.loads(json.dumps(rows))
    keys = "name impl dtype shape direction allocated median_s saved_bytes gb_per_s ratio_silu"
    assert all(set(keys.split()) <= set(row) for row in rows)
    # the implementation and two baselines, in two directions
    assert len(rows) == 6
    ours = rows[0]
    assert ours["name"] == "xielu" and ours["dtype"] == "bfloat16" and ours["certified"] is True
    # x, and two parameters of 4 bytes over 4096 elements with what they are computed from
    assert 2 <= ours["saved_bytes"] < 2.02
    assert "F.silu =" in table(rows)


def test_a_baseline_is_one_times_itself() -> None:
    rows = bench(ig.activation("xielu"), impls=["reference"], against=["silu"], **QUICK)
    silu = [r for r in rows if r["name"] == "F.silu"]
    assert len(silu) == 2
    assert all(r["ratio_silu"] == 1 and r["certified"] is None for r in silu)


def test_transformers_is_flagged_as_failing_its_certificate() -> None:
    pytest.importorskip("transformers")
    rows = bench(ig.activation("xielu"), impls=["reference"], against=["transformers"], **QUICK)
    peer = [r for r in rows if r["name"] == "XIELUActivation"]
    assert peer and all(r["certified"] is False for r in peer)
    assert all(8.9 < r["saved_bytes"] < 9.1 for r in peer)
    assert "XIELUActivation !" in table(rows)


def test_no_speed_for_what_fails_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(act: object, x: torch.Tensor, impl: str = "auto", **params: object) -> torch.Tensor:
        return x * 1.1

    monkeypatch.setattr(ig.Activation, "__call__", wrong)
    called: list[Callable[[], object]] = []
    monkeypatch.setattr(benchmark, "paired", lambda *a, **k: called.append(a))
    with pytest.raises(CertificationError, match="no speed for 'xielu' with impl='reference'"):
        bench(ig.activation("xielu"), impls=["reference"], against=["silu"], **QUICK)
    assert not called


def test_the_compiled_formula_is_certified_as_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from integrand.timing import baselines

    built: list[str] = []

    def compiled(entry: Entry) -> Entry:
        # stands for a compiler that loses the formula
        built.append(entry.name)
        return replace(entry, call=torch.relu, params=(), compiled=True)

    monkeypatch.setattr(baselines, "compiled", compiled)
    rows = bench(ig.activation("xielu"), impls=["reference"], against=["compiled"], **QUICK)
    flagged = [r for r in rows if r["compiled"]]
    assert built and flagged and all(r["certified"] is False for r in flagged)


def test_kernels_write_where_they_are_told_beside_the_limit() -> None:
    quick = {**QUICK, "cases": KERNEL}
    rows = bench(ig.activation("xielu"), against=["copy", "silu", "reference"], **quick)
    # the reference has no preallocated form
    assert [r["name"] for r in rows] == ["xielu", "copy", "F.silu"] * 2
    assert [r["direction"] for r in rows[::3]] == ["forward", "backward"]
    assert not any(r["allocated"] for r in rows)
    assert [r["bytes_per_element"] for r in rows[::3]] == [4, 6]
    for r in rows:
        moved = r["bytes_per_element"] * 64 * 64
        assert r["gb_per_s"] * r["median_s"] * 1e9 == pytest.approx(moved)
        assert r["percent_of_copy"] == pytest.approx(100 / r["ratio_copy"])


@pytest.mark.parametrize("name", ["copy", "silu", "gelu"])
def test_preallocated_yardsticks_compute_what_their_calls_do(name: str) -> None:
    entry = baselines(ig.activation("silu"), None, torch.float32, "cpu", [name])[name]
    x, dout = torch.randn(2, 5, 7)
    out = torch.full_like(x, torch.nan)
    entry.forward_into(x, out)
    assert torch.equal(out, entry.call(x))
    entry.backward_into(x, dout, out)
    if name == "copy":
        assert torch.equal(out, x + dout)
    else:
        leaf = x.clone().requires_grad_()
        assert torch.equal(out, torch.autograd.grad(entry.call(leaf), leaf, dout)[0])


def test_an_unknown_baseline_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"silu.*got 'unknown'"):
        bench(ig.activation("silu"), against=["unknown"], **QUICK)


def test_the_plain_formula_is_the_declared_text() -> None:
    x = torch.linspace(-3, 3, 31)
    formula = naive(ig.activation("silu").spec)
    assert formula is not None and torch.equal(formula(x, {}), x * torch.sigmoid(x))
    assert naive(ig.activation("xielu").spec) is None


def test_every_declared_function_has_a_plain_formula() -> None:
    x = torch.linspace(-2, 2, 9)
    for name in ig.names():
        spec = row(name).spec
        if formula := naive(spec):
            values = {k: torch.tensor([v]) for k, v in spec.values().items()}
            assert formula(x, values).shape == x.shape, name


@pytest.mark.parametrize("name", _PEERS)
def test_a_peer_of_transformers_is_the_same_function(name: str) -> None:
    pytest.importorskip("transformers")
    act = ig.activation(name)
    peer = baselines(act, None, torch.float64, "cpu", ["transformers"])["transformers"]
    x = torch.linspace(-9, 9, 181, dtype=torch.float64)
    # a formula of at most ten operations, each within an ulp of terms not beyond |x|
    assert torch.allclose(peer.call(x), act(x), rtol=1e-14, atol=9 * 10 * 2.0**-52)


def test_what_costs_arithmetic_is_read_off_the_program() -> None:
    assert causes(ig.activation("integral_atan").program) == ["1 table look-up per element"]
    assert "computed in fp64, because fp32 loses too much" in causes(ig.activation("apa").program)
    assert any("real exponent" in c for c in causes(ig.activation("xiprelup").program))
