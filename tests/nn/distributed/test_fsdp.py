"""Two gloo processes: FSDP2 with activations sharded apart trains as the unsharded model does."""

import copy
import io
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import integrand as ig
from integrand.models import Decoder, DecoderConfig
from integrand.nn.groups import activation_modules

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
WHOLE = StateDictOptions(full_state_dict=True)
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def decoder(gated: bool = False) -> Decoder:
    config = DecoderConfig(
        vocab_size=16, d_model=8, d_hidden=20, layers=2, heads=2, kv_heads=1, gated=gated,
        init_std=0.5,
    )  # fmt: skip
    return Decoder(config, ig.activation("xielu")).initialise(0)


def loss(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def train(model: nn.Module, tokens: Tensor, steps: int) -> None:
    groups = ig.nn.parameter_groups(model, lr=1e-2, activation_lr_scale=10.0)
    optimiser = torch.optim.AdamW(groups, eps=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, tokens).backward()
        optimiser.step()


def tokens(mesh: DeviceMesh | None = None) -> Tensor:
    """A batch, or this rank's half of it."""
    batch = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(1))
    return batch if mesh is None else batch.chunk(2)[mesh.get_local_rank()]


def ten_steps_are_those_of_the_unsharded_model(mesh: DeviceMesh) -> None:
    for gated in (False, True):
        alone = decoder(gated)
        model = ig.nn.shard(copy.deepcopy(alone), mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        train(alone, tokens(), 10)
        train(model, tokens(mesh), 10)
        for (name, p), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(
                p.full_tensor().detach(), expected.detach(), **CLOSE, msg=name
            )
        start = ig.activation("xielu").module().alpha_p
        assert not torch.allclose(alone.model.layers[0].mlp.act_fn.alpha_p, start, rtol=1e-3)


def tensor_parallel_and_fsdp_go_together(mesh: DeviceMesh) -> None:
    alone = decoder()
    train(alone, tokens(), 3)
    for shape in ((1, 2), (2, 1)):
        plane = init_device_mesh("cpu", shape, mesh_dim_names=("data", "model"))
        model = decoder()
        for layer in model.model.layers:
            plan = {
                "mlp.up_proj": ColwiseParallel(),
                "mlp.act_fn": ig.nn.ActivationParallel(),
                "mlp.down_proj": RowwiseParallel(),
            }
            parallelize_module(layer, plane["model"], plan)
        ig.nn.shard(model, plane["data"])
        train(model, tokens() if shape == (1, 2) else tokens(mesh), 3)
        for (name, p), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(
                p.full_tensor().detach(), expected.detach(), **CLOSE, msg=name
            )


def a_bf16_policy_leaves_activation_parameters_fp32(mesh: DeviceMesh) -> None:
    for made in (decoder(), decoder().bfloat16()):
        model = ig.nn.shard(made, mesh, mp_policy=BF16)
        seen = []
        for activation in activation_modules(model).values():
            activation.register_forward_hook(
                lambda m, xs, y, seen=seen: seen.append((m.alpha_p.dtype, xs[0].dtype, y.dtype))
            )
        loss(model, tokens(mesh)).backward()
        assert seen == [(torch.float32, torch.bfloat16, torch.bfloat16)] * 2
        for activation in activation_modules(model).values():
            assert activation.alpha_p.grad.dtype == torch.float32
            assert activation.values()["alpha_n"].dtype == torch.float32


def one_group_of_both_dtypes_is_what_fsdp_refuses(mesh: DeviceMesh) -> None:
    model = fully_shard(decoder().bfloat16(), mesh=mesh)
    with pytest.raises(AssertionError, match="uniform"):
        model(tokens(mesh))


def one_element_lies_on_one_rank(mesh: DeviceMesh) -> None:
    model = ig.nn.shard(decoder(), mesh)
    first = model.model.layers[0].mlp.act_fn
    assert first.alpha_p.to_local().numel() == 1 - mesh.get_local_rank()
    assert first.values()["alpha_p"].full_tensor().item() == pytest.approx(0.8)
    if mesh.get_local_rank() == 0:  # printing must not wait for the other rank
        assert "alpha_p=sharded" in repr(first)
    assert first.formula().text == str(ig.activation("xielu").module().formula())


def checkpoints_are_those_of_the_unsharded_model(mesh: DeviceMesh) -> None:
    alone, model = decoder(), ig.nn.shard(decoder(), mesh)
    train(model, tokens(mesh), 1)
    state = get_model_state_dict(model, options=WHOLE)
    if mesh.get_local_rank() == 0:
        assert {k: v.shape for k, v in state.items()} == {
            k: v.shape for k, v in alone.state_dict().items()
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        alone.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    torch.distributed.broadcast_object_list(box := [alone.state_dict()])
    other = ig.nn.shard(decoder(), mesh)
    set_model_state_dict(other, box[0], options=WHOLE)
    with torch.no_grad():
        torch.testing.assert_close(other(tokens()), model(tokens()), rtol=0, atol=0)


def inference_sees_every_step(mesh: DeviceMesh) -> None:
    model = ig.nn.shard(decoder(), mesh)
    for _ in range(2):
        train(model, tokens(mesh), 1)
        with torch.no_grad():
            answers = [model(tokens()) for _ in range(2)]
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        torch.distributed.broadcast_object_list(box := [state])
        alone = decoder()
        alone.load_state_dict(box[0])
        for answer in answers:
            torch.testing.assert_close(answer, alone(tokens()).detach(), **CLOSE)


def an_optimiser_made_after_inference_trains_activations(mesh: DeviceMesh) -> None:
    for gated in (False, True):
        alone = decoder(gated)
        model = ig.nn.shard(copy.deepcopy(alone), mesh)
        with torch.no_grad():
            model(tokens(mesh))
        layers = activation_modules(model)
        assert all(isinstance(p, DTensor) for m in layers.values() for p in m.parameters())
        (group,) = (g for g in ig.nn.parameter_groups(model) if g["name"] == "activations")
        optimiser = torch.optim.SGD(group["params"], lr=1.0)
        loss(model, tokens(mesh)).backward()
        optimiser.step()
        expected = decoder(gated)
        loss(expected, tokens()).backward()
        for name, layer in activation_modules(expected).items():
            for key, p in layer.named_parameters():
                moved = getattr(layers[name], key).full_tensor().detach()
                torch.testing.assert_close(moved, p.detach() - p.grad, **CLOSE)


def a_compiled_model_may_be_asked_and_then_trained(mesh: DeviceMesh) -> None:
    model = ig.nn.shard(decoder(), mesh)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        found = compiled(tokens())
        torch.testing.assert_close(found, model(tokens()), **CLOSE)
    layer = model.model.layers[0].mlp.act_fn
    assert isinstance(layer.alpha_p, DTensor)
    loss(compiled, tokens(mesh)).backward()
    assert isinstance(layer.alpha_p.grad, DTensor)


def named_blocks_are_groups(mesh: DeviceMesh) -> None:
    model = decoder()
    chosen = [model.model, *(layer.mlp for layer in model.model.layers)]
    ig.nn.shard(model, mesh, blocks=chosen, reshard_after_forward=False)
    groups = {n for n, m in model.named_modules() if type(m).__name__.startswith("FSDP")}
    layers = [f"model.layers.{i}.mlp" for i in range(2)]
    assert groups == {"", "model", *layers, *(f"{name}.act_fn" for name in layers)}
    train(model, tokens(mesh), 1)


def a_model_on_meta_is_sharded_then_filled(mesh: DeviceMesh) -> None:
    with torch.device("meta"):
        model = ig.nn.shard(nn.Sequential(ig.nn.MLP(ig.activation("xielu"), 4, 8)), mesh)
    model.to_empty(device="cpu")
    made = model[0].act_fn
    made.reset_parameters()
    fresh = ig.activation("xielu").module()
    for name, expected in fresh.state_dict().items():
        found = getattr(made, name)
        found = found.full_tensor() if isinstance(found, DTensor) else found
        assert torch.equal(found.detach(), expected), name


def growth_is_seen_on_every_rank(mesh: DeviceMesh) -> None:
    model = ig.nn.shard(decoder(), mesh)
    monitor = ig.nn.GrowthMonitor(model)
    with torch.no_grad():
        for p in activation_modules(model)["model.layers.1.mlp.act_fn"].parameters():
            p.fill_(166.0)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("integrand").addHandler(handler)
    rows = monitor.check(3)
    logging.getLogger("integrand").removeHandler(handler)
    assert [r.exceeded for r in rows] == [False, False, True, True]
    assert len(lines) == 2
    assert "layers.1.mlp.act_fn.alpha_p is 166 at step 3" in lines[0]


NAMES = [
    check.__name__
    for check in (
        ten_steps_are_those_of_the_unsharded_model,
        tensor_parallel_and_fsdp_go_together,
        a_bf16_policy_leaves_activation_parameters_fp32,
        one_group_of_both_dtypes_is_what_fsdp_refuses,
        one_element_lies_on_one_rank,
        checkpoints_are_those_of_the_unsharded_model,
        inference_sees_every_step,
        an_optimiser_made_after_inference_trains_activations,
        a_compiled_model_may_be_asked_and_then_trained,
        named_blocks_are_groups,
        a_model_on_meta_is_sharded_then_filled,
        growth_is_seen_on_every_rank,
    )
]


@pytest.fixture(scope="module")
def outcome(two_ranks):
    return two_ranks(__file__, NAMES)


@pytest.mark.parametrize("check", NAMES)
def test_on_two_ranks(check, outcome):
    assert not outcome[check], "\n".join(outcome[check])
