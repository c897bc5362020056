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
from integrand.nn.mlp import MLP
from integrand.sparsity import analysis, analyze, feed_forwards, masking, passes
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


def test_what_stands_out_and_what_is_lost_against_their_definitions() -> None:
    model, rows = _decoder("relu", gated=False), _text(4)
    with torch.no_grad():
        first, second = (b.matrices()[1].weight for b in feed_forwards(model))
        first[:5] = 0  # never active
        second.copy_(torch.rand(80, 1) * second[0])  # all active, or none
    blocks, seen, streams = feed_forwards(model), [], []
    hooks = [b.down.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for b in blocks]
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(lambda _, x, y: streams.append(y)))
    with torch.no_grad():
        model(rows[:, :-1])
    for hook in hooks:
        hook.remove()
    found = analyze(model, rows, quiet=True)
    for layer, block, h, stream in zip(found.layers, blocks, seen, streams, strict=True):
        h, x = h.flatten(0, 1).double(), stream.flatten(0, 1).abs()
        assert layer.hidden_max_over_rms == pytest.approx(float(h.max() / h.square().mean() ** 0.5))
        top, where = x.max(1)
        assert layer.residual_max == pytest.approx(float(top.max()))
        assert layer.residual_coordinate == int(where[top.argmax()])
        over = float((top / x.median(1).values).max())
        assert layer.residual_over_median == pytest.approx(over)
        assert layer.never == float((h == 0).all(0).double().mean())
        silent = (h == 0).all(1)
        assert layer.silent == pytest.approx(float(silent.double().mean()))
        weight = block.matrices()[2].weight.detach().double()
        size, whole = h * weight.norm(dim=0), (h @ weight.t()).norm(dim=1)[~silent]
        for share, lost in layer.top_k.items():
            out = size.argsort(1).argsort(1) < int(share * 80)
            left = ((h * out) @ weight.t()).norm(dim=1)[~silent]
            assert lost == pytest.approx(float((left / whole).mean()), abs=1e-4)
        for cett, threshold in layer.thresholds.items():
            left = ((h * (size <= threshold)) @ weight.t()).norm(dim=1)
            pooled = float((left.square().sum() / whole.square().sum()).sqrt())
            assert layer.pooled[cett] == pytest.approx(pooled, abs=1e-3)
    assert found.layers[0].never >= 5 / 80 and 0 < found.layers[1].silent < 1
    wide = dataclasses.replace(found.layers[0], d_hidden=240)
    mixed = dataclasses.replace(found, layers=(wide, found.layers[1]))
    zeros = [layer.exact_zeros for layer in found.layers]
    assert mixed.mean(lambda x: x.exact_zeros) == pytest.approx((3 * zeros[0] + zeros[1]) / 4)


def test_a_curve_on_some_rows_is_against_the_dense_model_on_those(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(analysis, "CURVE_TOKENS", 2 * CONTEXT)
    model, rows = _decoder(), _text(8)
    dense, all_of_it = _loss(model, rows[:2]), _loss(model, rows)
    assert abs(dense - all_of_it) > 1e-2
    found = analyze(model, rows, quiet=True)
    point = next(p for p in found.points if p.by == "top_k")
    blocks = feed_forwards(model)
    with leaving_out(blocks, [smallest(down_norms(b), point.value) for b in blocks]):
        rise = math.expm1(_loss(model, rows[:2]) - dense)
    assert point.tokens == 2 * CONTEXT and abs(point.rise - rise) < 1e-4


class _Routed(nn.Module):
    """Experts by the token's number, and a table of positions before that of tokens."""

    def __init__(self, experts: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places, self.tokens = nn.Embedding(CONTEXT, 16), nn.Embedding(VOCABULARY, 16)
        self.experts = nn.ModuleList(MLP(ig.activation("relu"), 16, 32) for _ in range(experts))
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            out[ids % 2 == k] = expert(x[ids % 2 == k])
        return self.head(x + out)


def test_experts_are_measured_on_the_tokens_they_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "TOKENS_AT_ONCE", CONTEXT)
    model, rows = _Routed().eval(), _text(6)
    rows[0] = 2 * (rows[0] // 2)  # nothing for the second expert in this part
    found, own = analyze(model, rows, quiet=True), rows[:, :-1]
    with torch.no_grad():
        x = model.tokens(own) + model.places(torch.arange(CONTEXT))
        h = feed_forwards(model)[1].hidden(x[own % 2 == 1])
    assert found.layers[1].exact_zeros == pytest.approx(float((h == 0).double().mean()))
    # what follows what in a row is not known of them
    assert math.isnan(found.layers[1].activity.reuse)
    with pytest.raises(Error, match=r"every block must get a token, got none for 'experts\.2'"):
        analyze(_Routed(3).eval(), rows, quiet=True)


def test_what_gives_no_loss_is_refused() -> None:
    broken, rows = _decoder(), _text(4)
    with torch.no_grad():
        feed_forwards(broken)[-1].matrices()[2].weight[0, 0] = math.nan
    with pytest.raises(Error, match="loss must be finite, got nan"):
        analyze(broken, rows, quiet=True)
    with pytest.raises(DataError, match="got separators alone"):
        analyze(_decoder(), torch.zeros_like(rows), separator=0, quiet=True)
    with pytest.raises(Error, match=r"separator must be None .* got 0 for _Routed"):
        analyze(_Routed(), rows, separator=0, quiet=True)
    model = _Routed()
    model.register_forward_hook(lambda *given: (given[-1],))
    with pytest.raises(Error, match=r"must give logits .* got tuple"):
        analyze(model, rows, quiet=True)


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
        ("a text", r"token ids .*, got \['str'\]"),
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
