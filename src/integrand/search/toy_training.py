"""Many small networks trained side by side, by hand: f and g are all that training takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from integrand.search.tabulated import Tabulated
from integrand.search.toy_tasks import Task


@dataclass(frozen=True)
class Toy:
    """Multi-layer perceptrons under Adam on the whole of a task; every seed at every rate."""

    width: int = 32
    hidden: int = 2
    steps: int = 120  # few: the tasks are not yet fitted, so that speed counts
    seeds: int = 3
    rates: tuple[float, ...] = (8e-3, 2e-2)  # fall to 0 along a quarter of a cosine


def errors(toy: Toy, task: Task, act: Tabulated, gain: float) -> Tensor:
    """The error on the test data after training, (rates, seeds); nan where training diverged.

    Weights start at N(0, gain^2 / inputs), those of the first layer without the gain and with
    biases from N(0, 1/4); all are the same numbers for every activation, but for the gain.
    """
    with torch.inference_mode():
        net = _Nets(toy, task, act, gain)
        for step in range(toy.steps):
            net.step(step)
        off = net.loss(net.forward(task.test_x, net.room(len(task.test_x))), task.test_y)
    return off.view(len(toy.rates), toy.seeds)


class _Nets:
    """Weights of all networks as rows of one tensor, so that Adam is a few calls."""

    def __init__(self, toy: Toy, task: Task, act: Tabulated, gain: float) -> None:
        self.toy, self.task, self.act = toy, task, act
        self.count = toy.seeds * len(toy.rates)
        sizes = [task.x.shape[1], *[toy.width] * toy.hidden, task.y.shape[1]]
        self.shapes = list(pairwise(sizes))
        total = sum(a * b + b for a, b in self.shapes)
        self.values, self.gradient, self.first, self.second = torch.zeros(4, self.count, total)
        self.layers, self.gradients = self._layers(self.values), self._layers(self.gradient)
        self.rate = torch.tensor(toy.rates).repeat_interleave(toy.seeds)[:, None]
        self.training = self.room(len(task.x))
        self._initialise(gain)

    def room(self, points: int) -> list[tuple[Tensor, Tensor]]:
        """For the outputs of each hidden layer and g there."""
        shape = (self.count, points, self.toy.width)
        return [(torch.empty(shape), torch.empty(shape)) for _ in range(self.toy.hidden)]

    def _layers(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight (K, a, b), bias (K, 1, b)) of each layer, views of the rows."""
        parts = rows.split([n for a, b in self.shapes for n in (a * b, b)], dim=1)
        return [
            (parts[2 * i].view(-1, a, b), parts[2 * i + 1].view(-1, 1, b))
            for i, (a, b) in enumerate(self.shapes)
        ]

    def _initialise(self, gain: float) -> None:
        g = torch.Generator().manual_seed(0)
        for i, (weight, bias) in enumerate(self.layers):
            _, a, b = weight.shape
            drawn = torch.randn(self.toy.seeds, a + 1, b, generator=g)
            drawn = drawn.repeat(len(self.toy.rates), 1, 1)
            weight.copy_(drawn[:, :a] * ((gain if i else 1.0) / math.sqrt(a)))
            if i == 0:
                bias.copy_(drawn[:, a:] / 2)

    def forward(self, x: Tensor, room: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The outputs; `room` is filled."""
        y = x.expand(self.count, *x.shape)
        for (weight, bias), (out, slope) in zip(self.layers[:-1], room, strict=True):
            y = torch.baddbmm(bias, y, weight, out=out)
            self.act(y, slope)
        weight, bias = self.layers[-1]
        return torch.baddbmm(bias, y, weight)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """(K,)"""
        if self.task.classes:
            return -(out.log_softmax(-1) * y).sum(-1).mean(-1)
        return (out - y).square().mean((1, 2))

    def step(self, step: int) -> None:
        """One update of all networks."""
        x, y = self.task.x, self.task.y
        out = self.forward(x, self.training)
        d = out.softmax(-1).sub_(y) if self.task.classes else (out - y).mul_(2 / y.shape[1])
        d /= len(y)
        for i in reversed(range(len(self.layers))):
            inputs, slope = self.training[i - 1] if i else (x.expand(self.count, *x.shape), None)
            weight, bias = self.gradients[i]
            weight.copy_(inputs.mT @ d)
            bias.copy_(d.sum(1, keepdim=True))
            if slope is not None:
                # the inputs have served: their place takes the gradient
                d = torch.bmm(d, self.layers[i][0].mT, out=inputs).mul_(slope)
        self._adam(step)

    def _adam(self, step: int) -> None:
        a, b = 0.9, 0.98
        self.first.lerp_(self.gradient, 1 - a)
        self.second.lerp_(self.gradient.square(), 1 - b)
        rate = self.rate * math.cos(math.pi / 2 * step / self.toy.steps) / (1 - a ** (step + 1))
        root = (self.second / (1 - b ** (step + 1))).sqrt_().add_(1e-8)
        self.values.addcdiv_(self.first * rate, root, value=-1)
