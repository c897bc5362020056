import dataclasses

import pytest
import torch

from integrand.models.decoder import DecoderConfig
from integrand.train import compute
from integrand.train.checkpoint import Progress
from integrand.train.config import TrainConfig
from integrand.train.loop import build


@pytest.mark.skipif(not compute._CLEAR.exists(), reason="an account that Linux keeps")
def test_peak_memory_is_this_process_s_since_the_reset() -> None:
    cpu = torch.device("cpu")
    torch.zeros(1 << 26).add_(1)  # 256 MiB
    before = compute.peak_memory(cpu)
    compute.reset_memory(cpu)
    assert compute.peak_memory(cpu) < before - (1 << 27)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_flops_are_six_per_weight_and_attention_both_ways(
    config: TrainConfig, gated: bool, tied: bool
) -> None:
    from integrand.activation import activation

    shape = dataclasses.replace(config.model, gated=gated, tied=tied)
    model = build(dataclasses.replace(config, model=shape), activation("silu"))
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    # looking a row up is no product; a tied matrix is the output's
    multiplied = matrices - (0 if tied else model.model.embed_tokens.weight.numel())
    # q k^T and its product with v: 2 * 2 T d forward, twice that backward
    attention = 12 * shape.layers * shape.d_model * 32
    assert compute.flops_per_token(shape, 32) == 6 * multiplied + attention


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
    ],
)
def test_a_known_gpu_has_its_published_peak(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found, source = compute.peak_flops(torch.device("cuda"))
    assert found == peak
    assert "data sheet" in source


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A10G", "Mine 3"])
def test_any_other_gpu_is_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(compute, "_measured", lambda *given: (1.0, str(given[1])))
    assert compute.peak_flops(torch.device("cuda"), "bf16") == (1.0, "torch.bfloat16")


def test_a_cpu_is_measured_once() -> None:
    first = compute.peak_flops(torch.device("cpu"))
    assert first == compute.peak_flops(torch.device("cpu"))
    assert first[0] > 1e9
    assert first[1].startswith("measured matmul, float32")


def test_rates_are_of_the_timed_steps_alone(config: TrainConfig) -> None:
    progress = Progress(step=11, seconds=100.0, timed_steps=10, train_seconds=4.0)
    found = compute.cost(config, torch.device("cpu"), progress)
    assert found["tokens_per_s"] == 10 * config.batch_size * config.context / 4.0
    assert found["mfu"] * found["peak_flops"] == pytest.approx(
        found["tokens_per_s"] * found["flops_per_token"]
    )
    assert found["memory_bytes"] > 1e7  # a process that has imported torch
    assert compute.cost(config, torch.device("cpu"), Progress(step=1))["mfu"] is None


def test_the_peak_is_that_of_the_ranks_of_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whatever other processes are there
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    device, progress = torch.device("cpu"), Progress(step=2, timed_steps=1, train_seconds=1.0)
    one, two = (compute.cost(config, device, progress, count) for count in (1, 2))
    assert one["peak_flops"] == compute.peak_flops(device)[0]
    assert two["peak_flops"] == 2 * one["peak_flops"]
    assert two["mfu"] == one["mfu"] / 2


def test_the_shape_alone_decides_and_nothing_is_allocated() -> None:
    # Apertus 8B: 6 * 7.5e9 weights outside the embedding, and attention
    shape = DecoderConfig(
        vocab_size=131072, d_model=4096, d_hidden=21504, layers=32, heads=32, kv_heads=8,
        gated=False, layout="apertus", qk_norm=True,
    )  # fmt: skip
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 2 * 4096 * 21504
    weights = 32 * layer + 131072 * 4096
    assert compute.flops_per_token(shape, 4096) == 6 * weights + 12 * 32 * 4096 * 4096
