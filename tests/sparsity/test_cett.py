"""CETT and sparsity against the definition written out, neuron by neuron."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import integrand as ig
from integrand.sparsity import cett
from integrand.sparsity.cett import Losses, add_losses, curve
from integrand.sparsity.feed_forward import FeedForward, feed_forwards
from integrand.sparsity.masking import down_norms
from integrand.sparsity.tally import Tally

D, H, T = 24, 90, 70
FORMS = {
    "plain": lambda act: ig.nn.MLP(act, D, H),
    "gated": lambda act: ig.nn.GatedMLP(act, D, H),
    "both": lambda act: ig.nn.GatedMLP(act, D, H, activate_up=True),
}


def _block(form: str, act: str, dtype: torch.dtype) -> tuple[FeedForward, Tensor]:
    """A block in a model, and the h of some tokens."""
    torch.manual_seed(0)
    model = nn.Sequential(FORMS[form](ig.activation(act))).to(dtype)
    with torch.no_grad():
        block = feed_forwards(model)[0]
        return block, block.hidden(torch.randn(T, D, dtype=dtype))


def _brute(h: Tensor, weight: Tensor, threshold: float) -> tuple[float, float, float]:
    """(sparsity, CETT, pooled CETT) with every n_i written out, T x H x D, in fp64."""
    n = h.double()[:, :, None] * weight.double().T
    size = n.norm(dim=2)
    out = size <= threshold
    lost = (n * out[:, :, None]).sum(1).norm(dim=1)
    whole = n.sum(1).norm(dim=1)
    loud = whole > 0
    ratio = (lost[loud] / whole[loud]).mean()
    pooled = lost.square().sum().sqrt() / whole.square().sum().sqrt()
    return float(out.double().mean()), float(ratio), float(pooled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("form", "act"), [("plain", "relu2"), ("plain", "gelu"), ("gated", "silu"), ("both", "relu")]
)
def test_every_threshold_matches_the_definition(form: str, act: str, dtype: torch.dtype) -> None:
    block, h = _block(form, act, dtype)
    tally = Tally(block, (0.5, 1.0))
    tally.add(h)
    found = curve(tally.losses)
    weight = block.matrices()[2].weight.detach()
    for i in range(0, len(found.thresholds), 7):
        sparsity, ratio, pooled = _brute(h, weight, found.thresholds[i])
        # a magnitude next to a threshold may round to its other side
        assert abs(found.sparsity[i] - sparsity) < 1.5 / (T * H)
        assert abs(found.cett[i] - ratio) < 1e-4
        assert abs(found.pooled[i] - pooled) < 1e-4
    assert found.thresholds[0] == found.cett[0] == 0
    assert abs(found.cett[-1] - 1) < 1e-5 and found.sparsity[-1] == 1
    assert np.diff(found.sparsity).min() >= 0


def test_top_k_matches_the_definition() -> None:
    block, h = _block("gated", "silu", torch.float32)
    tally = Tally(block, (0.5, 0.9))
    tally.add(h)
    n = h.double()[:, :, None] * block.matrices()[2].weight.detach().double().T
    order = n.norm(dim=2).argsort(dim=1)
    for share, sums in zip((0.5, 0.9), tally.losses.at_rank, strict=True):
        small = order[:, : int(share * H)]
        lost = torch.stack([n[t, small[t]].sum(0).norm() for t in range(T)])
        assert abs(sums / T - float((lost / n.sum(1).norm(dim=1)).mean())) < 1e-5


def test_torch_agrees_with_c(monkeypatch: pytest.MonkeyPatch) -> None:
    block, h = _block("plain", "relu", torch.float32)
    h[3] = 0
    both = []
    for in_c in (cett._in_c, lambda: None):
        monkeypatch.setattr(cett, "_in_c", in_c)
        monkeypatch.setattr(cett, "AT_ONCE", 3 * H * 32)
        tally = Tally(block, (0.5, 0.8, 1.0))
        tally.add(h)
        both.append(tally.losses)
    for name in ("count", "ratio", "power", "at_rank", "totals"):
        np.testing.assert_allclose(*(getattr(x, name) for x in both), rtol=1e-4, atol=1e-4)


def test_the_mean_crosses_a_target_once() -> None:
    # on average CETT grows; where it dips, the first crossing is the threshold
    block, h = _block("gated", "silu", torch.float32)
    tally = Tally(block, (0.5,))
    tally.add(h)
    found = curve(tally.losses)
    assert np.diff(found.cett).min() > -0.02
    for target in (0.05, 0.1, 0.2, 0.5):
        i = found.at(target)
        assert found.cett[: i + 1].max() <= target + 1e-6 < found.cett[i + 1]
    assert found.at(1.0) == len(found.cett) - 1


def _losses(h: Tensor, columns: Tensor) -> Losses:
    """Of one block with columns (H, D) = W_d transposed."""
    sums = Losses.none(0)
    padded = nn.functional.pad(columns, (0, -columns.shape[1] % 16)).contiguous()
    add_losses(sums, h, columns.norm(dim=1), padded, np.array([], np.int64))
    return sums


def test_a_token_alone_need_not_be_monotone() -> None:
    # the two small neurons cancel: leaving out both costs less than leaving out one
    found = curve(_losses(torch.tensor([[1.0, 1.5, 4.0]]), torch.tensor([[1.0], [-1.0], [1.0]])))
    whole = 1 - 1.5 + 4
    np.testing.assert_allclose(found.cett, [0, 1 / whole, 0.5 / whole, 1], rtol=1e-6)
    # within 0.2 lies only nothing at all: the dip at the second neuron is not taken
    assert found.at(0.2) == 0


def test_no_quantile_caps_the_threshold() -> None:
    # one neuron in 200 carries the output: 0.2 allows all the others, 99.5 %, to go
    h = torch.ones(8, 200)
    h[:, 0] = 1000.0
    found = curve(_losses(h, torch.eye(200)))
    assert found.sparsity[found.at(0.2)] == 199 / 200


def test_the_sign_does_not_matter() -> None:
    torch.manual_seed(0)
    h, columns = torch.randn(20, 40), torch.randn(40, 16)
    a, b = (curve(_losses(s * h, columns)) for s in (1, -1))
    np.testing.assert_array_equal(a.cett, b.cett)
    assert a.sparsity[a.at(0.2)] > 0.3


def test_tiny_outputs_rule_the_mean_and_not_the_pooled_value() -> None:
    columns = torch.eye(2)
    h = torch.tensor([[1e-3, 2e-3], [1.0, 5.0], [1.0, 5.0]])
    found = curve(_losses(h, columns))
    after = int(np.searchsorted(found.thresholds, 2e-3))
    assert abs(found.cett[after] - 1 / 3) < 1e-6 and found.pooled[after] < 1e-3


def test_a_token_without_output_does_not_count() -> None:
    h = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    sums = _losses(h, torch.eye(2))
    assert sums.totals[0] == 1 and sums.count[0] == 2
    np.testing.assert_allclose(curve(sums).cett, [0, 5**-0.5, 1], rtol=1e-6)


def test_norms_of_bf16_weights_are_those_of_fp32() -> None:
    block, _ = _block("plain", "relu", torch.bfloat16)
    exact = block.matrices()[2].weight.detach().double().norm(dim=0)
    assert (down_norms(block).double() / exact - 1).abs().max() < 1e-6
