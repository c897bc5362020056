import dataclasses
import math

import pytest
import torch

from integrand.activation import activation
from integrand.train.config import TrainConfig
from integrand.train.loop import build
from integrand.train.outliers import fp8, mxfp8, outliers


def e4m3(value: float) -> float:
    """The nearest e4m3 value, ties to even, saturating: 3 bits of fraction, exponents from -6."""
    if value == 0:
        return 0.0
    exponent = max(math.floor(math.log2(abs(value))), -6)
    step = 2.0 ** (exponent - 3)
    return math.copysign(min(448.0, round(abs(value) / step) * step), value)


def mx(values: list[float]) -> list[float]:
    """The rule of OCP MX 1.0, 6.3, written out for one block."""
    largest = max(map(abs, values))
    scale = 2.0 ** (math.floor(math.log2(largest)) - 8) if largest else 1.0
    return [e4m3(value / scale) * scale for value in values]


def test_mxfp8_is_the_rule_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 80, generator=generator) * torch.logspace(-6, 6, 50)[:, None]
    x[3] = 0.0
    x[4, :5] = torch.tensor([256.0, 448.0, 511.0, -500.0, 1e-9])
    wanted = [
        [value for start in (0, 32, 64) for value in mx(row[start : start + 32])]
        for row in x.tolist()
    ]
    assert mxfp8(x).tolist() == wanted


def test_fp8_maps_the_largest_to_itself_and_rounds_within_a_sixteenth() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    error = (fp8(x) - x).abs()
    largest = x.abs().amax()
    # half a step of 2^-3 of the power of two below, or of the smallest normal one
    assert bool((error <= torch.maximum(x.abs(), largest / 448 * 2**-6) / 16 * 1.0001).all())
    assert float(error[x.abs().argmax()]) <= float(largest) * 2**-23
    assert fp8(torch.zeros(3)).tolist() == [0.0] * 3


@pytest.mark.parametrize("gated", [False, True])
def test_one_number_per_layer_of_the_hidden_activation(config: TrainConfig, gated: bool) -> None:
    shape = dataclasses.replace(config.model, gated=gated)
    model = build(dataclasses.replace(config, model=shape), activation("silu"))
    tokens = torch.arange(64).view(4, 16)
    # two portions are measured as one
    found = outliers(model, [(tokens[:3],), (tokens[3:],)])
    assert set(found) == {
        "kurtosis", "max", "max_over_rms", "fp8_error", "mxfp8_error", "elements"
    }  # fmt: skip
    assert found["elements"] == [64 * shape.d_hidden] * shape.layers
    assert all(len(values) == shape.layers for values in found.values())
    seen = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach())
    )
    model(tokens)
    hook.remove()
    h = seen[0].double()
    assert found["max"][1] == pytest.approx(float(h.abs().max()))
    assert found["max_over_rms"][1] == pytest.approx(
        float(h.abs().max() / h.square().mean() ** 0.5)
    )
    fourth, second = ((h - h.mean()) ** k for k in (4, 2))
    # a mean of 1536 terms in fp32
    assert found["kurtosis"][1] == pytest.approx(
        float(fourth.mean() / second.mean() ** 2), rel=1e-5
    )
    # rounding to 3 bits of fraction errs by 2^-4 at most, and on average by less
    assert 0 < found["mxfp8_error"][1] < 2**-4


def test_one_outlier_costs_fp8_what_blocks_do_not() -> None:
    x = torch.randn(8, 1024, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 1e6
    rest = slice(1, None)
    errors = {q: float((q(x) - x)[rest].norm() / x[rest].norm()) for q in (fp8, mxfp8)}
    assert errors[mxfp8] < 0.04 < 0.5 < errors[fp8]


def test_the_model_reads_as_in_training(config: TrainConfig) -> None:
    """Under autocast and within documents, while what is measured is computed in fp32."""
    model = build(config, activation("silu"))
    tokens = torch.arange(64).view(4, 16)
    documents = (torch.arange(16) // 5).expand(4, -1)
    seen = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach())
    )
    found = outliers(model, [(tokens, documents)], torch.autocast("cpu", torch.bfloat16))
    hook.remove()
    (h,) = seen
    assert h.dtype == torch.bfloat16
    assert found["max"][1] == float(h.abs().max())
    assert found["max"] != outliers(model, [(tokens,)])["max"]
    weight = model.model.layers[1].mlp.down_proj.weight.detach()
    error, product = (x @ weight.T for x in (mxfp8(h) - h.float(), h.float()))
    # bf16 products would differ by 2^-9
    assert found["mxfp8_error"][1] == pytest.approx(float(error.norm() / product.norm()), rel=1e-5)
