"""A hand-made xIELU: what `certify` needs of an activation, without derivation and kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from integrand.derivation.program import Program
from integrand.spec import Param, Spec

XIELU = Spec(
    name="xielu",
    gradient="2*alpha_p*x + beta if x > 0 else alpha_n*expm1(x) + beta",
    params={
        "alpha_p": Param(0.8, above=0),
        "alpha_n": Param(0.8, above="beta"),
        "beta": Param(0.5, trainable=False),
    },
    source="arXiv:2411.13010",
)

_OPS = (
    ("x",),  # 0
    ("const", "0"),
    ("lt", 1, 0),  # 2: 0 < x
    ("param", "alpha_p"),
    ("param", "alpha_n"),
    ("param", "beta"),  # 5
    ("mul", 3, 0),
    ("mul", 6, 0),  # 7: ap x x
    ("mul", 5, 0),  # 8: b x
    ("add", 7, 8),
    ("min", 0, 1),  # 10: x <= 0
    ("call", "expm1mx", 10),
    ("mul", 4, 11),  # 12
    ("add", 12, 8),
    ("select", 2, 9, 13),  # 14: f
    ("add", 6, 6),
    ("add", 15, 5),  # 16
    ("call", "expm1", 10),
    ("mul", 4, 17),
    ("add", 18, 5),
    ("select", 2, 16, 19),  # 20: df
    ("mul", 0, 0),
    ("select", 2, 21, 1),  # 22: d_alpha_p
    ("select", 2, 1, 11),  # 23: d_alpha_n
)
PROGRAM = Program(
    params=("alpha_p", "alpha_n", "beta"),
    ops=_OPS,
    outputs={"f": 14, "df": 20, "d_alpha_p": 22, "d_alpha_n": 23, "d_beta": 0},
)

Formula = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]


def f64(x: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    # below it expm1(x) - x + x b/a is -1 - x + x b/a: no inf - inf
    far = torch.where(x < -1e30, (p["beta"] - p["alpha_n"]) * x, 0)
    near = x.clamp(-1e30)
    n = near.clamp(max=0)
    series = n * n * (0.5 + n * (1 / 6 + n / 24))
    h = torch.where(n > -1e-3, series, torch.expm1(n) - n)
    # products in an order that does not overflow early
    positive = p["alpha_p"] * near * near
    y = torch.where(near > 0, positive, p["alpha_n"] * h) + p["beta"] * near
    return torch.where(x < -1e30, far, y)


def df64(x: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    negative = p["alpha_n"] * torch.expm1(x.clamp(max=0))
    return torch.where(x > 0, 2 * p["alpha_p"] * x, negative) + p["beta"]


class HandMade:
    """xIELU computed in fp64 and rounded once; `f` and `df` can be replaced by defective ones."""

    name, spec, program = "xielu", XIELU, PROGRAM

    def __init__(self, f: Formula = f64, df: Formula = df64, program: Program = PROGRAM):
        self.f, self.df, self.program = f, df, program
        self.scale: dict[str, float] = {}

    def __call__(self, x: torch.Tensor, impl: str = "auto", **params: Any) -> torch.Tensor:
        values = {k: v if torch.is_tensor(v) else torch.tensor([v]) for k, v in params.items()}
        return _Function.apply(self, x, values["alpha_p"], values["alpha_n"], values["beta"])


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, act: HandMade, x: torch.Tensor, *theta: torch.Tensor) -> torch.Tensor:
        ctx.act = act
        ctx.save_for_backward(x, *theta)
        return act.f(x.double(), _named(theta)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> Any:  # type: ignore[override]
        x, *theta = ctx.saved_tensors
        wide, g = x.double(), dout.double()
        n = wide.clamp(max=0)
        terms = {
            "alpha_p": wide.clamp(min=0) ** 2,
            "alpha_n": torch.expm1(n) - n,
            "beta": wide,
        }
        dtheta = [
            (g * t * ctx.act.scale.get(k, 1.0)).sum().reshape(1).to(theta[0].dtype)
            for k, t in terms.items()
        ]
        return None, (g * ctx.act.df(wide, _named(theta))).to(x.dtype), *dtheta


def _named(theta: Any) -> dict[str, torch.Tensor]:
    names = ("alpha_p", "alpha_n", "beta")
    return {k: t.double() for k, t in zip(names, theta, strict=True)}


@pytest.fixture
def xielu() -> HandMade:
    return HandMade()


@pytest.fixture
def defective() -> type[HandMade]:
    return HandMade
