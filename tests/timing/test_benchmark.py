from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import integrand as ig
from integrand.errors import CertificationError
from integrand.timing import bench, benchmark, table
from integrand.timing.baselines import Entry

QUICK = {"shape": (64, 64), "rounds": 3, "warmup": 1, "dtypes": [torch.bfloat16]}


def test_rows_have_the_published_keys() -> None:
    act = ig.activation("xielu")
    rows = bench(act, impls=["reference"], against=["silu", "reference"], **QUICK)
    rows = json.loads(json.dumps(rows))
    keys = "name impl dtype shape direction allocated median_s saved_bytes ratio_silu"
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
