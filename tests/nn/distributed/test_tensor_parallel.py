"""Two gloo processes: an activation of a shared tensor has the gradients of the whole."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import integrand as ig

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
LAYOUTS = ({}, {"use_local_output": False})  # plain shards, or DTensors, between the projections


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def layer(shape: tuple[int, ...] = (1,), impl: str = "auto") -> ig.nn.Pointwise:
    """Parameters that differ from their initial values and from each other."""
    made = ig.activation("xielu").module(shape=shape, impl=impl)
    with torch.no_grad():
        for raw in made.parameters():
            raw.copy_(torch.linspace(-0.5, 0.7, raw.numel()).view(shape))
    return made


def same_on_all_ranks(tensors: list[Tensor]) -> bool:
    flat = torch.cat([whole(t.detach()).reshape(-1) for t in tensors])
    gathered = [torch.empty_like(flat) for _ in range(2)]
    torch.distributed.all_gather(gathered, flat)
    return torch.equal(*gathered)


def agree(mesh: DeviceMesh, one: nn.Module, x: DTensor, dout: DTensor) -> None:
    """y, dx and parameter gradients on the mesh are those of the whole tensors."""
    alone = layer(tuple(one.alpha_p.shape))
    x = x.detach().requires_grad_()
    y = one(x)
    y.backward(dout)
    z = whole(x.detach()).requires_grad_()
    wanted = alone(z)
    wanted.backward(whole(dout))
    torch.testing.assert_close(whole(y), wanted, **CLOSE)
    torch.testing.assert_close(whole(x.grad), z.grad, **CLOSE)
    for raw, expected in zip(one.parameters(), alone.parameters(), strict=True):
        assert not isinstance(raw.grad, DTensor) or not any(
            p.is_partial() for p in raw.grad.placements
        )
        torch.testing.assert_close(whole(raw.grad), expected.grad, **CLOSE)
    assert same_on_all_ranks([raw.grad for raw in one.parameters()])


def dtensors_give_the_gradients_of_the_whole(mesh: DeviceMesh) -> None:
    x, dout = torch.randn(3, 5, 7), torch.randn(3, 5, 7)  # nothing divides by two
    for place, impl in itertools.product(
        (Shard(0), Shard(1), Shard(2), Replicate()), ("reference", "c")
    ):
        for one in (
            layer(impl=impl),
            parallelize_module(layer(impl=impl), mesh, ig.nn.ActivationParallel()),
        ):
            agree(mesh, one, *(distribute_tensor(t, mesh, [place]) for t in (x, dout)))


def pending_sums_are_carried_out_first(mesh: DeviceMesh) -> None:
    x = DTensor.from_local(torch.randn(4, 6), mesh, [Partial()], run_check=False)
    agree(mesh, layer(), x, distribute_tensor(torch.randn(4, 6), mesh, [Replicate()]))


def parameters_that_vary_go_with_x(mesh: DeviceMesh) -> None:
    x, dout = torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    for shape in ((6,), (4, 1, 1)):
        for place in (Shard(0), Shard(2), Replicate()):
            spread = [distribute_tensor(t, mesh, [place]) for t in (x, dout)]
            agree(mesh, layer(shape), *spread)
            agree(mesh, parallelize_module(layer(shape), mesh, ig.nn.ActivationParallel()), *spread)
            own = layer(shape)
            for name, raw in list(own.named_parameters()):
                placed = distribute_tensor(raw.detach(), mesh, [Shard(0)])
                own.register_parameter(name, nn.Parameter(placed))
            agree(mesh, own, *spread)


def a_batch_and_a_hidden_dimension_at_once(mesh: DeviceMesh) -> None:
    x, dout = torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    for shape in ((2, 1), (1, 2)):
        plane = init_device_mesh("cpu", shape)
        for places in ((Shard(0), Shard(2)), (Shard(0), Replicate()), (Replicate(), Shard(1))):
            spread = [distribute_tensor(t, plane, places) for t in (x, dout)]
            agree(plane, layer(), *spread)
            agree(plane, layer((6,)), *spread)


def plain_shards_of_a_declared_layout(mesh: DeviceMesh) -> None:
    x, dout = torch.randn(4, 6, 8), torch.randn(4, 6, 8)
    rank = mesh.get_local_rank()
    for shape, dim in (((1,), -1), ((1,), 1), ((8,), -1), ((4, 1, 1), 0)):
        for transformers in (False, True):
            style = ig.nn.ActivationParallel(input_layouts=Shard(dim))
            one, alone = layer(shape), layer(shape)
            if transformers:
                style.install_forward(one, mesh)
            else:
                one = parallelize_module(one, mesh, style)
            y = one(x.chunk(2, dim)[rank])
            y.backward(dout.chunk(2, dim)[rank])
            wanted = alone(x)
            wanted.backward(dout)
            torch.testing.assert_close(y, wanted.chunk(2, dim)[rank], **CLOSE)
            with torch.no_grad():
                torch.testing.assert_close(one(x.chunk(2, dim)[rank]), y, rtol=0, atol=0)
            for raw, expected in zip(one.parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(whole(raw.grad), expected.grad, **CLOSE)
            assert same_on_all_ranks([raw.grad for raw in one.parameters()])


def plan(block: nn.Module, **colwise: bool) -> dict[str, object]:
    first = [name for name in ("gate_proj", "up_proj") if hasattr(block, name)]
    return {
        **{name: ColwiseParallel(**colwise) for name in first},
        "act_fn": ig.nn.ActivationParallel(),
        "down_proj": RowwiseParallel(),
    }


def step(block: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor) -> None:
    optimiser.zero_grad()
    block(x).square().mean().backward()
    optimiser.step()


def blocks_stay_equal_to_the_unsharded_for_ten_steps(mesh: DeviceMesh) -> None:
    act = ig.activation("xielu")
    # as many tokens as d_model: then the hidden tensor and the weights have one number of elements
    x = torch.randn(8, 8)
    for kind, colwise in itertools.product((ig.nn.MLP, ig.nn.GatedMLP), LAYOUTS):
        torch.manual_seed(1)
        alone = kind(act, 8, 24)
        block = parallelize_module(copy.deepcopy(alone), mesh, plan(alone, **colwise))
        optimisers = [torch.optim.SGD(b.parameters(), lr=0.5) for b in (alone, block)]
        for _ in range(10):
            for b, optimiser in zip((alone, block), optimisers, strict=True):
                step(b, optimiser, x)
        for (name, raw), expected in zip(block.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(whole(raw.detach()), expected.detach(), **CLOSE, msg=name)
        assert not torch.equal(alone.act_fn.alpha_p, act.module().alpha_p)
        assert same_on_all_ranks(list(block.act_fn.parameters()))


def blocks_recompute_on_shards(mesh: DeviceMesh) -> None:
    act = ig.activation("xielu")
    for kind, colwise in itertools.product((ig.nn.MLP, ig.nn.GatedMLP), LAYOUTS):
        block = kind(act, 8, 24)
        block = parallelize_module(block, mesh, plan(block, **colwise))
        calls: list[int] = []
        inner = block.act_fn.with_values
        block.act_fn.with_values = lambda *a, inner=inner, calls=calls: calls.append(1) or inner(*a)
        loss = block(torch.randn(8, 8)).square().sum()
        forward = len(calls)
        loss.backward()
        assert len(calls) > forward >= 1


def without_a_plan_plain_shards_drift_apart(mesh: DeviceMesh) -> None:
    block = ig.nn.MLP(ig.activation("xielu"), 8, 24)
    without = {k: v for k, v in plan(block).items() if k != "act_fn"}
    block = parallelize_module(block, mesh, without)
    block(torch.randn(8, 8)).square().mean().backward()
    assert not same_on_all_ranks([raw.grad for raw in block.act_fn.parameters()])


def sharded_parameters_refuse_a_plain_x(mesh: DeviceMesh) -> None:
    one = parallelize_module(layer(), mesh, ig.nn.ActivationParallel())
    one.layout = None
    with pytest.raises(ig.BackendError, match="as a DTensor and got a plain x"):
        one(torch.randn(3))
    plane = init_device_mesh("cpu", (2, 1))
    with pytest.raises(ig.BackendError, match="one device mesh"):
        one(distribute_tensor(torch.randn(4), plane, [Replicate(), Replicate()]))


NAMES = [
    check.__name__
    for check in (
        dtensors_give_the_gradients_of_the_whole,
        pending_sums_are_carried_out_first,
        parameters_that_vary_go_with_x,
        a_batch_and_a_hidden_dimension_at_once,
        plain_shards_of_a_declared_layout,
        blocks_stay_equal_to_the_unsharded_for_ten_steps,
        blocks_recompute_on_shards,
        without_a_plan_plain_shards_drift_apart,
        sharded_parameters_refuse_a_plain_x,
    )
]


@pytest.fixture(scope="module")
def outcome(two_ranks):
    return two_ranks(__file__, NAMES)


@pytest.mark.parametrize("check", NAMES)
def test_on_two_ranks(check, outcome):
    assert not outcome[check], "\n".join(outcome[check])


def test_a_style_names_what_it_cannot_do() -> None:
    with pytest.raises(ig.BackendError, match="pending sum"):
        ig.nn.ActivationParallel(input_layouts=Partial())
    with pytest.raises(ig.BackendError, match="got Linear"):
        ig.nn.ActivationParallel()._apply(nn.Linear(2, 2), None)


def test_a_torch_without_distributed_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    for call in (lambda: ig.nn.ActivationParallel, lambda: ig.nn.shard(nn.Linear(2, 2))):
        with pytest.raises(ig.BackendError, match="a build of torch with"):
            call()
