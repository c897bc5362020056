"""Derivatives by value in every mode of differentiation, for every implementation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import integrand as ig

X = torch.tensor([-30.0, -2.0, -0.5, 0.0, 0.7, 3.0, 40.0], dtype=torch.float64)
IMPLS = ("auto", "reference", "c")
ONES = torch.ones_like(X)
# the bound on fp64 tables; formulas stay far below it
CLOSE = {"rtol": 1e-12, "atol": 1e-15}


def _xielu(x: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.where(x > 0, 1.6 * x + 0.5, 0.8 * torch.expm1(x) + 0.5)
    return slope, torch.where(x > 0, 1.6, 0.8 * torch.exp(x))


def _relu(x: Tensor) -> tuple[Tensor, Tensor]:
    return (x > 0).double(), torch.zeros_like(x)


def _integral_silu(x: Tensor) -> tuple[Tensor, Tensor]:
    s, c = torch.sigmoid(x), torch.sigmoid(-x)
    return x * s, s + x * s * c


SLOPES = {"xielu": _xielu, "relu": _relu, "integral_silu": _integral_silu}


def _forward_ad(f: Callable[[Tensor], Tensor]) -> Tensor:
    with fwd.dual_level():
        return fwd.unpack_dual(f(fwd.make_dual(X, ONES))).tangent


def _double_backward(f: Callable[[Tensor], Tensor]) -> Tensor:
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return torch.autograd.grad(first.sum(), x)[0]


def _batched_cotangents(f: Callable[[Tensor], Tensor]) -> Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(f(x), x, torch.eye(len(x)).double(), is_grads_batched=True)[
        0
    ].diagonal()


FIRST: dict[str, Callable[[Callable[[Tensor], Tensor]], Tensor]] = {
    "jvp": lambda f: jvp(f, (X,), (ONES,))[1],
    "forward_ad": _forward_ad,
    "jacfwd": lambda f: jacfwd(f)(X).diagonal(),
    "jacrev": lambda f: jacrev(f)(X).diagonal(),
    "vmap_grad": lambda f: vmap(grad(f))(X),
    "batched_cotangents": _batched_cotangents,
}
SECOND: dict[str, Callable[[Callable[[Tensor], Tensor]], Tensor]] = {
    "hessian": lambda f: hessian(lambda t: f(t).sum())(X).diagonal(),
    "forward_over_forward": lambda f: vmap(jacfwd(jacfwd(f)))(X),
    "reverse_over_forward": lambda f: vmap(grad(lambda t: jvp(f, (t,), (ONES[0],))[1]))(X),
    "reverse_over_reverse": lambda f: vmap(grad(grad(f)))(X),
    "double_backward": _double_backward,
}


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mode", [*FIRST, *SECOND])
def test_every_mode_gives_the_declared_derivative(mode: str, impl: str, name: str) -> None:
    act = ig.activation(name)
    first, second = SLOPES[name](X)
    got = (FIRST | SECOND)[mode](lambda t: act(t, impl=impl))
    torch.testing.assert_close(got, first if mode in FIRST else second, **CLOSE)


@pytest.mark.parametrize("impl", IMPLS)
def test_tangents_of_parameters_are_counted(impl: str) -> None:
    act = ig.activation("xielu")

    def f(x: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return act(x, impl=impl, alpha_p=p, alpha_n=n)

    p, n = (
        torch.tensor([0.75], dtype=torch.float64),
        torch.full((len(X),), 0.9, dtype=torch.float64),
    )
    at = (X, p, n)
    along = (ONES * 0.5, torch.tensor([2.0], dtype=torch.float64), ONES * -3)
    want = torch.where(
        X > 0,
        0.5 * (1.5 * X + 0.5) + 2.0 * X * X,
        0.5 * (0.9 * torch.expm1(X) + 0.5) - 3.0 * (torch.expm1(X) - X),
    )
    # expm1(x) - x is written with cancellation here: 0.5 / 1.1e-16 of its ulp
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(jvp(f, at, along)[1], want, **close)
    # a tangent of a parameter alone
    got = jvp(lambda q: f(X, q, n), (p,), (along[1],))[1]
    torch.testing.assert_close(got, torch.where(X > 0, 2.0 * X * X, 0.0), **close)
    with fwd.dual_level():
        y = f(*(fwd.make_dual(a, d) for a, d in zip(at, along, strict=True)))
        torch.testing.assert_close(fwd.unpack_dual(y).tangent, want, **close)
    mixed = jacfwd(grad(lambda q, t: f(t, q, n).sum()), argnums=1)(p, X)
    torch.testing.assert_close(mixed[0], torch.where(X > 0, 2 * X, 0.0), **close)


@pytest.mark.parametrize("impl", IMPLS)
def test_parameters_are_batched_by_vmap(impl: str) -> None:
    act = ig.activation("xielu")
    values = torch.tensor([[0.5], [1.0], [2.0]]).double()

    def f(p: Tensor) -> Tensor:
        return act(X, impl=impl, alpha_p=p)

    want = torch.stack([act(X, impl="reference", alpha_p=p) for p in values])
    torch.testing.assert_close(vmap(f)(values), want, **CLOSE)
    got = vmap(grad(lambda p: f(p).sum()))(values)
    torch.testing.assert_close(got, (X.clamp(min=0) ** 2).sum().expand(3, 1), **CLOSE)


@pytest.mark.parametrize("impl", ["auto", "c"])
def test_compiled_transforms_give_the_declared_derivative(impl: str) -> None:
    layer = ig.activation("xielu").module(impl=impl).double()
    first, second = _xielu(X)

    def f(t: Tensor) -> Tensor:
        return layer(t)

    def all_modes(x: Tensor) -> tuple[Tensor, ...]:
        return (
            jvp(f, (x,), (torch.ones_like(x),))[1],
            jvp(grad(lambda t: f(t).sum()), (x,), (torch.ones_like(x),))[1],
            vmap(f)(x),
        )

    got = torch.compile(all_modes, fullgraph=True, backend="aot_eager")(X)
    want = (first, second, layer(X))
    # the raw parameters were rounded to fp32 before they were widened
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("impl", ["auto", "c"])
def test_forward_mode_around_compiled_code_is_not_zero(impl: str) -> None:
    act = ig.activation("xielu")
    compiled = torch.compile(lambda t: act(t, impl=impl), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(_forward_ad(compiled), _xielu(X)[0], **CLOSE)
    inside = torch.compile(
        lambda: _forward_ad(lambda t: act(t, impl=impl)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(inside(), _xielu(X)[0], **CLOSE)


def test_the_operator_itself_differentiates_in_every_mode() -> None:
    act = ig.activation("xielu")
    values = [torch.tensor([v], dtype=torch.float64) for v in (0.8, 0.8, 0.5)]

    def op(t: Tensor) -> Tensor:
        return torch.ops.integrand.forward(t, values, act.program.digest)

    first, second = _xielu(X)
    for mode, want in [(m, first) for m in FIRST] + [(m, second) for m in SECOND]:
        torch.testing.assert_close((FIRST | SECOND)[mode](op), want, **CLOSE)


def test_gradients_of_a_gradient_in_every_parameter() -> None:
    act = ig.activation("xielu")
    x = torch.tensor([-3.0, -1e-3, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    values = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.8, 0.9, 0.5)]
    for impl in IMPLS:

        def call(x: Tensor, *v: Tensor, impl: str = impl) -> Tensor:
            return act(x, impl, **dict(zip(act.spec.params, v, strict=True)))

        assert torch.autograd.gradcheck(call, (x, *values), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, (x, *values), check_fwd_over_rev=True)
