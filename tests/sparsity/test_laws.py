"""The published laws give the published numbers."""

from __future__ import annotations

from integrand.sparsity.laws import (
    RELU_2_4B,
    prosparse_sparsity,
    relu_activation_ratio,
    silu_activation_ratio,
)


def test_the_relu_model_of_2_4_b() -> None:
    # about 800 B tokens: 93.52 % sparse, and 6.48 % in the limit
    assert abs(1 - relu_activation_ratio(800, *RELU_2_4B) - 0.9352) < 5e-4
    assert abs(relu_activation_ratio(1e6, *RELU_2_4B) - 0.0648) < 1e-9
    ratios = [relu_activation_ratio(d, *RELU_2_4B) for d in (1, 10, 100, 1000)]
    assert ratios == sorted(ratios, reverse=True)


def test_silu_grows_to_its_limit() -> None:
    assert abs(silu_activation_ratio(4.0, 0.2, 0.5, 0.4) - 0.3) < 1e-15
    assert 0.399 < silu_activation_ratio(1e6, 0.2, 0.5, 0.4) < 0.4


def test_prosparse_grows_with_the_penalty() -> None:
    # 100 - exp(-1.76 * 0.1^0.3 + 3.49) = 100 - exp(2.6079)
    assert abs(prosparse_sparsity(0.1) - 0.86429) < 1e-4
    assert prosparse_sparsity(0.01) < prosparse_sparsity(0.1) < prosparse_sparsity(1.0)
