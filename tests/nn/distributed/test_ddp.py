"""Two gloo processes: data parallel training of the activation's parameters, as it comes."""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import integrand as ig
from integrand.nn.groups import activation_modules


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def train(model: nn.Module, x: Tensor) -> None:
    groups = ig.nn.parameter_groups(model, lr=0.1)
    assert {g["name"] for g in groups} == {"matrices", "activations"}
    optimiser = torch.optim.SGD(groups)
    for _ in range(10):
        optimiser.zero_grad()
        (model(x) - x).square().mean().backward()
        optimiser.step()


def ten_steps_are_those_of_one_process(mesh: DeviceMesh) -> None:
    act = ig.activation("xielu")
    x = torch.randn(6, 8)
    for kind in (ig.nn.MLP, ig.nn.GatedMLP):
        alone = nn.Sequential(kind(act, 8, 24), kind(act, 8, 24, recompute=False))
        for options in ({}, {"static_graph": True}, {"gradient_as_bucket_view": True}):
            one, inner = copy.deepcopy(alone), copy.deepcopy(alone)
            inner[1] = Checkpointed(inner[1])
            model = DistributedDataParallel(inner, **options)
            train(one, x)
            train(model, x.chunk(2)[mesh.get_local_rank()])
            for p, expected in zip(model.parameters(), one.parameters(), strict=True):
                torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-6)
            moved = [m.alpha_p for m in activation_modules(model).values()]
            assert len(moved) == 2
            assert not any(torch.equal(raw, act.module().alpha_p) for raw in moved)
            flat = torch.cat([raw.detach() for raw in moved])
            both = [torch.empty_like(flat) for _ in range(2)]
            torch.distributed.all_gather(both, flat)
            assert torch.equal(*both)


NAMES = [ten_steps_are_those_of_one_process.__name__]


def test_ten_steps_are_those_of_one_process(two_ranks) -> None:
    found = two_ranks(__file__, NAMES)[NAMES[0]]
    assert not found, "\n".join(found)
