"""What analyze says of a model, against the model run by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import integrand as ig
from integrand.errors import DataError, Error
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.sparsity import analyze, feed_forwards, masking, passes
from integrand.sparsity.activity import Counts
from integrand.sparsity.analysis import CETTS, RISE, TOLERANCE, largest_within
from integrand.sparsity.masking import at_most, down_norms, leaving_out, magnitudes, smallest

VOCABULARY, CONTEXT = 61, 24


def _decoder(act: str = "silu", gated: bool = True, **other: int) -> Decoder:
    shape = {"d_model": 32, "d_hidden": 80, "layers": 2, "heads": 2, "kv_heads": 2, **other}
    config = DecoderConfig(vocab_size=VOCABULARY, gated=gated, init_std=0.15, **shape)
    return Decoder(config, ig.activation(act)).initialise(0)


def _text(rows: int = 40) -> Tensor:
    """Tokens that repeat with a shift: something to learn."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, VOCABULARY, (rows, 1), generator=generator)
    step = torch.randint(1, 4, (rows, 1), generator=generator)
    return (start + step * torch.arange(CONTEXT + 1)) % VOCABULARY


@pytest.fixture(scope="module", params=["silu", "relu2"])
def trained(request: pytest.FixtureRequest) -> Decoder:
    """A model that leaving neurons out makes worse."""
    model = _decoder(request.param, gated=request.param == "silu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = _text()
    for _ in range(60):
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _loss(model: nn.Module, rows: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()))


def test_the_operating_point_costs_one_percent(trained: Decoder) -> None:
    rows, blocks = _text(), feed_forwards(trained)
    found = analyze(trained, rows, quiet=True)
    dense = _loss(trained, rows)
    assert abs(found.loss - dense) < 1e-5

    def rise(cett: float) -> float:
        with masking(blocks, found.thresholds(cett)):
            return math.expm1(_loss(trained, rows) - dense)

    at = found.operating
    assert abs(rise(at.cett) - at.rise) < 1e-4
    assert rise(at.cett) <= RISE + 1e-4 < rise(at.cett + 1e-3) + 2e-4
    assert 0 < at.sparsity < 1 and abs(at.sparsity - at.sparsity_in_use) < 0.1
    assert len([p for p in found.points if p.by == "cett" and p.tokens == found.tokens]) < 12


def test_points_are_those_of_the_model_run_so(trained: Decoder) -> None:
    rows, blocks = _text(), feed_forwards(trained)
    found = analyze(trained, rows, quiet=True)
    norms = [down_norms(b) for b in blocks]
    for point in found.points:
        rules = {
            "cett": lambda p: list(map(at_most, norms, found.thresholds(p.value))),
            "global": lambda p: [at_most(torch.ones_like(n), p.value) for n in norms],
            "top_k": lambda p: [smallest(n, p.value) for n in norms],
        }[point.by](point)
        with leaving_out(blocks, rules):
            loss = _loss(trained, rows)
        assert abs(math.expm1(loss - found.loss) - point.rise) < 1e-3 * (1 + point.rise)
    asked = {p.value for p in found.points if p.by == "top_k"}
    for share in asked:
        for by in ("cett", "global", "top_k"):
            near = min(abs(p.sparsity - share) for p in found.points if p.by == by)
            assert near < 0.03


def test_layers_say_what_their_activations_are(trained: Decoder) -> None:
    rows, blocks = _text(), feed_forwards(trained)
    seen: list[Tensor] = []
    hooks = [b.down.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for b in blocks]
    with torch.no_grad():
        trained(rows[:, :-1])
    for hook in hooks:
        hook.remove()
    found = analyze(trained, rows, quiet=True)
    for layer, block, h in zip(found.layers, blocks, seen, strict=True):
        assert (layer.name, layer.form, layer.d_hidden) == (block.name, block.form, 80)
        assert abs(layer.exact_zeros - float((h == 0).double().mean())) < 1e-12
        assert abs(layer.hidden_max - float(h.abs().max())) < 1e-5
        size = magnitudes(h, down_norms(block))
        for cett in CETTS:
            share = float((size <= layer.thresholds[cett]).double().mean())
            assert abs(layer.sparsity[cett] - share) < 1e-3
        assert list(layer.thresholds) == [*CETTS, found.operating.cett]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["cett_ppl_1"] == found.operating.sparsity and data["predictor_recall"] is None
    assert len(data["layers"]) == 2 and data["layers"][0]["reuse"] is not None


def test_activity_against_its_definitions() -> None:
    torch.manual_seed(0)
    norms = torch.rand(12) + 0.5
    h = torch.randn(3, 200, 12) * torch.linspace(0, 2, 12)
    counts = Counts(norms, 0.6)
    for part in h.split(1):
        counts.add(part)
    found = counts.result()
    active = magnitudes(h, norms) > 0.6
    both = sum(int((a[1:] & a[:-1]).sum()) for a in active)
    assert found.reuse == both / int(active[:, 1:].sum())
    flat = active.flatten(0, 1)
    gaps, lifts = [], []
    for i in range(12):
        if int(flat[:, i].sum()) >= 32:
            c = torch.stack([flat[flat[:, i], j].double().mean() for j in range(12) if j != i])
            p = torch.stack([flat[:, j].double().mean() for j in range(12) if j != i])
            gaps.append(float(c.max() - c.mean()))
            lifts.append(float((c - p).max()))
    assert abs(found.coactivation_gap - sum(gaps) / len(gaps)) < 1e-9
    assert abs(found.coactivation_lift - sum(lifts) / len(lifts)) < 1e-9
    per = flat.sum(0).sort(descending=True).values
    fewest = next(k for k in range(1, 13) if per[:k].sum() >= 0.8 * per.sum())
    assert found.hot == fewest / 12 and found.dead == float((per == 0).double().mean()) > 0


def test_a_layer_with_too_few_tokens_has_no_weight() -> None:
    model = _decoder()
    found = analyze(model, _text(8), quiet=True)
    first, second = found.layers
    few = dataclasses.replace(second.activity, coactivation_gap=math.nan)
    second = dataclasses.replace(second, activity=few)
    mixed = dataclasses.replace(found, layers=(first, second)).to_dict()
    assert mixed["coactivation_gap"] == first.activity.coactivation_gap
    assert dataclasses.replace(found, layers=(second,)).to_dict()["coactivation_gap"] is None


def test_no_neuron_active() -> None:
    counts = Counts(torch.ones(4), 1.0)
    counts.add(torch.zeros(1, 3, 4))
    found = counts.result()
    assert found.dead == 1 and found.hot == 0 and math.isnan(found.reuse)


def test_a_model_that_ignores_its_blocks_may_lose_them_all() -> None:
    model = _decoder()
    with torch.no_grad():
        for block in feed_forwards(model):
            block.matrices()[2].weight.mul_(1e-6)
    found = analyze(model, _text(8), quiet=True)
    assert found.operating.cett > 1 - 2 * TOLERANCE and found.operating.sparsity > 0.99


@pytest.mark.parametrize(
    ("rise", "root"),
    [
        (lambda x: 0.3 * x**2, math.sqrt(RISE / 0.3)),
        (lambda x: math.expm1(5 * x**3), (math.log1p(RISE) / 5) ** (1 / 3)),
        (lambda x: 1e3 * x, 1e-5),
        (lambda x: 0.02 if x > 0.777 else -1e-3, 0.777),
        (lambda x: -1.0, 1.0),
    ],
)
def test_the_search_closes_the_bracket(rise: Callable[[float], float], root: float) -> None:
    calls: list[float] = []

    def counted(x: float) -> float:
        calls.append(x)
        return rise(x)

    found = largest_within(counted, RISE, TOLERANCE)
    assert rise(found) <= RISE and root - TOLERANCE - 1e-12 <= found <= root
    # bisection takes ten, and a step is no power law
    assert len(calls) <= (18 if rise(0.5) < 0 else 7)


def test_memory_does_not_grow_with_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the rows themselves: a part of them is what is ever held."""
    monkeypatch.setattr(passes, "TOKENS_AT_ONCE", 240)
    model = _decoder(d_hidden=256, layers=1)

    def peak(rows: int) -> int:
        from torch.profiler import ProfilerActivity, profile

        data = _text(rows)
        tracemalloc.start()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            analyze(model, data, quiet=True)
        numpy = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        held = most = 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most + numpy

    small, large = peak(10), peak(80)
    tokens, width, d_model = 80 * CONTEXT, 256, 32
    assert large < 1.2 * small + 64 * tokens
    assert large < tokens * width * d_model  # bytes: a quarter of T H D in fp32


def test_modes_and_hooks_are_as_before() -> None:
    model = _decoder().train()
    analyze(model, _text(4), quiet=True)
    assert model.training and all(m.training for m in model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_progress_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    analyze(_decoder(), _text(4), label="mine")
    told = capsys.readouterr()
    assert told.err.startswith("mine: step ") and "left" in told.err and not told.out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.zeros(0, 5, dtype=torch.long), "two tokens at least"),
        (torch.zeros(3, 1, dtype=torch.long), "two tokens at least"),
        ([], "data must be token ids"),
        (torch.zeros(5, dtype=torch.long), "data must be token ids"),
        (torch.zeros(2, 5), "must be integers"),
        ([torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 6, dtype=torch.long)], "one length"),
        (torch.full((2, 5), VOCABULARY), "between 0 and 60"),
        (torch.full((2, 5), -1), "between 0 and 60"),
    ],
)
def test_bad_tokens_are_refused(data: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        analyze(_decoder(), data, quiet=True)


def test_bad_models_are_refused() -> None:
    with pytest.raises(Error, match="needs feed-forward blocks"):
        analyze(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), _text() % 5, quiet=True)
    with torch.device("meta"):
        empty = _decoder()
    with pytest.raises(Error, match="must hold its weights"):
        analyze(empty, _text(), quiet=True)
    broken = _decoder()
    with torch.no_grad():
        broken.model.embed_tokens.weight[0] = math.nan
    with pytest.raises(Error, match=r"'model.layers.0.mlp' must be finite"):
        analyze(broken, torch.zeros(2, 5, dtype=torch.long), quiet=True)
    with pytest.raises(Error, match="needs a threshold"), masking(feed_forwards(_decoder()), [0.1]):
        pass


def test_masking_leaves_out_what_is_small_and_ends() -> None:
    model, rows = _decoder("relu2", gated=False), _text(2)[:, :-1]
    blocks = feed_forwards(model)
    with torch.no_grad():
        dense = model(rows)
        with masking(blocks, [0.0, 0.0]):
            assert torch.equal(model(rows), dense)
        with masking(blocks, [math.inf, math.inf]):
            kept = {}
            watch = blocks[0].module.register_forward_hook(lambda _, x, y: kept.update(y=y))
            model(rows)
            watch.remove()
        assert not kept["y"].any()
        assert torch.equal(model(rows), dense)


def test_nan_is_never_left_out() -> None:
    rule = at_most(torch.ones(2), 1.0)
    assert rule(torch.tensor([[math.nan, 0.5]])).tolist() == [[False, True]]
