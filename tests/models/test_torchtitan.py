"""Runs where torchtitan is installed; it is not among the test dependencies, and nothing stands in.

torchtitan imports on torch alone with spmd_types, einops, grain, torch_checkpointing and
tensorboard; its sources can be put on PYTHONPATH.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import integrand as ig

pytest.importorskip("torchtitan.models.llama3", reason="torchtitan is not installed")

HERE = "integrand.models.torchtitan"


def built(target: str | None = None, **options: Any) -> Any:
    """torchtitan's own Llama 3 debug model, made as its trainer makes it, on the CPU."""
    from torchtitan.config import OverrideConfig, apply_overrides  # pyrefly: ignore
    from torchtitan.models.llama3 import llama3_configs  # pyrefly: ignore
    from torchtitan.models.llama3.sharding import set_llama3_sharding_config  # pyrefly: ignore

    config = llama3_configs["debugmodel"](attn_backend="flex")
    config.layers = config.layers[:2]
    set_llama3_sharding_config(config, enable_sp=False)
    if target is not None:
        apply_overrides(OverrideConfig(imports=[(f"{HERE}.{target}", options)]), config)
    with torch.device("meta"):
        model = config.build()
    model.verify_module_protocol()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.init_states()
    return model


def test_a_plain_block_has_the_parameters_of_the_stock_one() -> None:
    stock, plain = built(), built("plain")
    blocks = [layer.feed_forward for layer in plain.layers.values()]
    assert {name for name, _ in blocks[0].named_parameters()} == {
        "w1.weight", "w2.weight", "act_fn.alpha_p", "act_fn.alpha_n",
    }  # fmt: skip
    assert blocks[0].w1.out_features == 1.5 * built().layers["0"].feed_forward.w1.out_features
    count = sum(p.numel() for p in plain.parameters())
    assert count - sum(p.numel() for p in stock.parameters()) == 2 * len(blocks)
    # w2 keeps the stock block's deviation, which falls with depth
    assert blocks[0].w2.weight.std() > 1.2 * blocks[1].w2.weight.std()
    for block in blocks:
        assert block.act_fn.values()["alpha_p"].item() == pytest.approx(0.8, rel=1e-6)


def test_a_plain_block_computes_and_learns() -> None:
    block = built("plain").layers["1"].feed_forward
    x = torch.randn(7, block.w1.in_features, dtype=torch.float64, requires_grad=True)
    block = block.double()
    y = block(x)
    act = ig.activation("xielu")
    torch.testing.assert_close(y, F.linear(act(F.linear(x, block.w1.weight)), block.w2.weight))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_silu_on_the_gate_is_the_stock_block() -> None:
    stock, gated = built(), built("gated", activation="silu")
    assert stock.state_dict().keys() == gated.state_dict().keys()
    gated.load_state_dict(stock.state_dict())
    ours, theirs = (m.layers["0"].feed_forward.double() for m in (gated, stock))
    x = torch.randn(5, 256, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_gated_block_adds_only_the_activation() -> None:
    stock, gated = built(), built("gated", activation="xielu")
    added = gated.state_dict().keys() - stock.state_dict().keys()
    assert added == {
        f"layers.{i}.feed_forward.act_fn.{key}"
        for i in range(2)
        for key in ("alpha_p", "alpha_n", "beta", "eps")
    }
    other = built("gated", activation="xielu")
    other.load_state_dict(gated.state_dict())


def test_the_optimizer_takes_the_activation_apart() -> None:
    from torchtitan.components.optimizer import (  # pyrefly: ignore
        OptimizersContainer,
        ParamGroupConfig,
    )

    model = built("plain")
    adamw = {"lr": 1e-2, "weight_decay": 0.1}
    container = OptimizersContainer.Config(
        param_groups=[
            ParamGroupConfig(
                pattern=r"\.act_fn\.",
                optimizer_name="AdamW",
                optimizer_kwargs=adamw | {"weight_decay": 0.0},
            ),
            ParamGroupConfig(pattern=r".*", optimizer_name="AdamW", optimizer_kwargs=adamw),
        ],
        implementation="for-loop",
    ).build(model_parts=[model])
    groups = container.optimizers[0].param_groups
    assert len(groups[0]["params"]) == 4 and groups[0]["weight_decay"] == 0.0
    block = model.layers["0"].feed_forward
    before = block.act_fn.alpha_p.clone()
    block(torch.randn(7, 256)).square().sum().backward()
    container.step()
    assert block.act_fn.alpha_p != before
