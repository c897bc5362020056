"""Fixed data sets that tell activations apart in a second of training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Task(NamedTuple):
    """Inputs (N, d) of about unit variance and targets (N, c), for training and for the error.

    The error is the mean square of the difference, or with `classes` the cross-entropy.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: bool = False


def _polynomial(x: Tensor) -> Tensor:
    a, b = x[:, :1], x[:, 1:]
    return a**3 - a * b + 0.5 * b**2 - 0.5 * b**3


def _harmonics(x: Tensor) -> Tensor:
    return torch.sin(3 * x) + 0.5 * torch.cos(5 * x) + 0.3 * torch.sin(9 * x + 1)


def _regression(target: Callable[[Tensor], Tensor], x: Tensor, test_x: Tensor) -> Task:
    y, test_y = target(x), target(test_x)
    unit = 3**0.5  # of a uniform distribution on [-1, 1]
    return Task(x * unit, (y - y.mean()) / y.std(), test_x * unit, (test_y - y.mean()) / y.std())


def polynomial() -> Task:
    """A cubic of two variables on a square, tested on the frame around it."""
    g = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(128, 2, generator=g) - 1
    around = 1.5 * (2 * torch.rand(1024, 2, generator=g) - 1)
    return _regression(_polynomial, x, around[around.abs().amax(1) > 1][:256])


def harmonics() -> Task:
    """Three waves on an interval, tested a little beyond both of its ends."""
    x = torch.linspace(-1, 1, 128)[:, None]
    beyond = torch.linspace(1, 1.3, 65)[1:, None]
    return _regression(_harmonics, x, torch.cat([-beyond, beyond]))


def parity() -> Task:
    """The product of three of ten signs, tested on signs not seen."""
    bits = torch.arange(10)
    signs = 1 - 2 * (torch.arange(1024)[:, None] >> bits & 1).float()
    signs = signs[torch.randperm(1024, generator=torch.Generator().manual_seed(2))]
    y = F.one_hot((signs[:, :3].prod(1) > 0).long(), 2).float()
    return Task(signs[:384], y[:384], signs[-384:], y[-384:], classes=True)


def recall() -> Task:
    """Random keys with random classes, more than fit in the time: the error is that of training."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(400, 8, generator=g)
    y = F.one_hot(torch.randint(0, 16, (400,), generator=g), 16).float()
    return Task(x, y, x, y, classes=True)


@cache
def tasks() -> dict[str, Task]:
    """Error outside the range of training, the idea of arXiv:2602.05688, on the first two; and what
    blocks of language models are for: combining features and remembering."""
    return {task.__name__: task() for task in (polynomial, harmonics, parity, recall)}
