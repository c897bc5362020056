import json

import pytest
import torch

from integrand.activation import activation
from integrand.errors import DataError
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.sparsity import analyze, aspects, feed_forwards, passes, price
from integrand.sparsity.aspects import (
    _active,
    _between,
    decode,
    decode_speedup,
    operating_thresholds,
)
from integrand.sparsity.thresholds import Thresholds, fingerprint

TABLE = [
    {"case": f"{form}-bf16", "sparsity": s, "speedup": v}
    for form, speeds in (("gated", (1.0, 1.3, 2.1)), ("plain", (1.0, 1.2, 1.6)))
    for s, v in zip((0.0, 0.5, 0.9), speeds, strict=True)
]


def decoder(form: str, act: str = "relu") -> Decoder:
    config = DecoderConfig(
        **{"vocab_size": 64, "d_model": 16, "d_hidden": 48, "layers": 2, "heads": 2, "kv_heads": 2},
        **{"gated": form != "plain", "activate_up": form == "both", "init_std": 0.3},
    )
    return Decoder(config, activation(act)).initialise(0).eval()


def rows() -> torch.Tensor:
    return torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", ["plain", "gated", "both"])
def test_active_shares_are_those_of_the_blocks_run_by_hand(form: str) -> None:
    model, limit = decoder(form, "silu"), 0.2
    blocks = feed_forwards(model)
    values = {f"gate/{b.name}": torch.full((48,), limit) for b in blocks}
    found = _active(model, rows(), Thresholds("cats", 0.5, fingerprint(model), values), None)
    gates, neurons = [], []

    def by_hand(block, given):
        first, *up = block.inner_values(given[0])
        kept = block.act(first).abs() > limit
        second = 1 if not up else block.act(up[0]) if form == "both" else up[0]
        h = block.act(first) * kept * second
        gates.append(kept)
        neurons.append(h != 0)
        return block.down(h)

    for block in blocks:
        block.module.forward = lambda x, block=block: by_hand(block, (x,))
    with torch.no_grad():
        model(rows()[:, :-1])
    expected = [torch.cat([k.flatten() for k in each]).double().mean() for each in (gates, neurons)]
    # a gate within a rounding of its limit may fall on either side
    assert found == pytest.approx([float(e) for e in expected], abs=1e-3)


def test_active_shares_are_counted_as_an_analysis_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(config).eval()
    (name,) = [b.name for b in feed_forwards(gpt2)]
    limits = Thresholds("cats", 0.5, fingerprint(gpt2), {f"gate/{name}": torch.full((64,), 0.02)})
    # at rest, whatever its dropout would do
    assert _active(gpt2, rows(), limits, None) == _active(gpt2.train(), rows(), limits, None)
    assert gpt2.training

    # documents apart, and never all tokens at once
    monkeypatch.setattr(passes, "TOKENS_AT_ONCE", 32)
    model, sizes = decoder("plain", "silu"), []
    model.register_forward_pre_hook(lambda _, given: sizes.append(given[0].numel()))
    values = {f"gate/{b.name}": torch.full((48,), 0.2) for b in feed_forwards(model)}
    limits = Thresholds("cats", 0.5, fingerprint(model), values)
    apart, together = (_active(model, rows() % 4, limits, s) for s in (0, None))
    assert apart != together and max(sizes) == 32


def test_speeds_between_the_rows_of_a_table() -> None:
    gated = [r for r in TABLE if r["case"] == "gated-bf16"]
    assert [_between(1 - r["sparsity"], gated) for r in gated] == pytest.approx([1.0, 1.3, 2.1])
    # in the time, not the speed: half way between 1/2.1 and 1/1.3
    assert _between(0.3, gated) == pytest.approx(2 / (1 / 2.1 + 1 / 1.3))
    # nothing is promised beyond the sparsest row
    assert _between(0.01, gated) == pytest.approx(2.1)
    assert _between(0.5, []) is None
    # between the densest row and no sparsity at all
    assert _between(0.75, gated[1:]) == pytest.approx(2 / (1 / 1.3 + 1))


def test_no_speed_is_promised_of_a_form_that_was_not_timed_or_where_dense_was_chosen() -> None:
    assert decode_speedup("both", 0.1, TABLE) is None
    both = {"case": "both-bf16", "sparsity": 0.8, "rows_read": 0.15, "speedup": 2.0}
    assert decode_speedup("both", 0.15, [*TABLE, both]) == pytest.approx(2.0)
    # the sweep of a form that was not timed says nothing of its speed either
    chosen = {"case": "plain-bf16", "batch": 1, "sparsity": 0.4, "dense_chosen": 1.0}
    others = [{**chosen, **c} for c in ({"batch": 2}, {"case": "gated-bf16"}, {"dense_chosen": 0})]
    assert decode_speedup("plain", 0.6, TABLE[:3], [chosen]) is None
    plain = [r for r in TABLE if r["case"] == "plain-bf16" and r["sparsity"]]
    assert decode_speedup("plain", 0.65, plain, [chosen]) == 1
    assert decode_speedup("plain", 0.55, plain, [chosen]) == pytest.approx(2 / (1 / 1.2 + 1))
    assert decode_speedup("plain", 0.65, plain, [{**o, "sparsity": 0.4} for o in others]) > 1


@pytest.mark.parametrize("form", ["plain", "gated"])
def test_a_decode_speed_costs_a_percent_at_most(form: str) -> None:
    model = decoder(form)
    found = decode(model, rows(), analyze(model, rows(), quiet=True).to_dict())
    assert found["rise"] <= 0.01
    speed = decode_speedup(form, found["rows_read"], TABLE)
    assert speed is not None and 1 <= speed <= (1.6 if form == "plain" else 2.1)
    assert found["active"] <= found["active_gate"] <= 1


def test_the_cost_of_decoding_is_that_on_rows_not_calibrated_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calibrated, priced = decoder("gated", "silu"), [], []
    monkeypatch.setattr(aspects, "CALIBRATION_TOKENS", 48)
    for name, seen in (("calibrate", calibrated), ("price", priced)):
        original = getattr(aspects, name)
        monkeypatch.setattr(
            *(aspects, name),
            lambda m, a, b, *c, original=original, seen=seen: (
                seen.append(a if seen is calibrated else b) or original(m, a, b, *c)
            ),
        )
    found = decode(model, rows(), analyze(model, rows(), quiet=True).to_dict())
    assert len(calibrated) == len(priced) > 0
    assert all(torch.equal(r, rows()[:3]) for r in calibrated)
    assert all(torch.equal(r, rows()[3:]) for r in priced)
    assert found["tokens"] == 5 * 16
    # a few rows are halved; one cannot be
    monkeypatch.undo()
    few = decode(model, rows()[:3], analyze(model, rows()[:3], quiet=True).to_dict())
    assert few["tokens"] == 2 * 16
    with pytest.raises(DataError, match="two rows at least"):
        decode(model, rows()[:1], analyze(model, rows()[:1], quiet=True).to_dict())


def test_rows_of_up_are_read_for_active_gates_and_rows_of_down_for_active_neurons() -> None:
    model = decoder("both")
    found = decode(model, rows(), analyze(model, rows(), quiet=True).to_dict())
    # up's half leaves fewer neurons than gates
    assert found["active"] < 0.8 * found["active_gate"]
    assert found["rows_read"] == (found["active_gate"] + found["active"]) / 2


def test_operating_thresholds_are_the_operating_point() -> None:
    model = decoder("gated", "silu")
    analysis = analyze(model, rows(), quiet=True)
    # as a file has them: keys are text
    written = json.loads(json.dumps(analysis.to_dict()))
    paid = price(model, operating_thresholds(model, written), rows())
    assert paid.rise == pytest.approx(analysis.operating.rise, abs=1e-4)
    mean = sum(paid.sparsity.values()) / len(paid.sparsity)
    assert mean == pytest.approx(analysis.operating.sparsity_in_use, abs=1e-3)
