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
        off = net.loss(net.forward(task.test_x)[0], task.test_y)
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
        self._initialise(gain)

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

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """(outputs, the inputs of every layer, g at every hidden layer)."""
        inputs, slopes = [x.expand(self.count, *x.shape)], []
        for weight, bias in self.layers[:-1]:
            y, slope = self.act(torch.baddbmm(bias, inputs[-1], weight))
            inputs.append(y)
            slopes.append(slope)
        weight, bias = self.layers[-1]
        return torch.baddbmm(bias, inputs[-1], weight), inputs, slopes

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """(K,)"""
        if self.task.classes:
            return -(out.log_softmax(-1) * y).sum(-1).mean(-1)
        return (out - y).square().mean((1, 2))

    def step(self, step: int) -> None:
        """One update of all networks."""
        out, inputs, slopes = self.forward(self.task.x)
        y = self.task.y
        d = (out.softmax(-1) - y) if self.task.classes else (out - y) * (2 / y.shape[1])
        d /= len(y)
        for i in reversed(range(len(self.layers))):
            weight, bias = self.gradients[i]
            weight.copy_(inputs[i].mT @ d)
            bias.copy_(d.sum(1, keepdim=True))
            if i:
                d = (d @ self.layers[i][0].mT).mul_(slopes[i - 1])
        self._adam(step)

    def _adam(self, step: int) -> None:
        a, b = 0.9, 0.98
        self.first.lerp_(self.gradient, 1 - a)
        self.second.lerp_(self.gradient.square(), 1 - b)
        rate = self.rate * math.cos(math.pi / 2 * step / self.toy.steps) / (1 - a ** (step + 1))
        root = (self.second / (1 - b ** (step + 1))).sqrt_().add_(1e-8)
        self.values.addcdiv_(self.first * rate, root, value=-1)
