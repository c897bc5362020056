"""Parameters of every shape that x broadcasts over, on every implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import integrand as ig
from integrand.kernels import dispatch

E, T, C = 3, 5, 7
SHAPES = [
    ((E, T, C), (E, 1, 1)),
    ((E, 1, C), (E, 1, 1)),
    ((E, T, C), (C,)),
    ((E, T, C), (1, 1, C)),
    ((E, T, C), (E, 1, C)),
    ((2, E, T, C), (E, 1, 1)),
    ((2, E, T, C), (2, 1, 1, 1)),
    ((T, C), (T, 1)),
    ((T, C), (T, C)),
    ((E, 0, C), (E, 1, 1)),
    ((E, T, C), (1, 1, 1)),
    ((), (1,)),
]


@pytest.fixture(scope="module")
def act() -> ig.Activation:
    return ig.activation("xielu")


def _exact(x: Tensor, p: Tensor, n: Tensor) -> Tensor:
    # expm1(x) - x cancels for small |x| only, which the samples avoid
    y = torch.where(x > 0, p * x * x, n * (torch.expm1(x) - x)) + 0.5 * x
    return y.reshape(x.shape)


def _samples(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    return x + 0.25 * x.sign()


def _values(shape: tuple[int, ...], n_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    p = torch.linspace(0.5, 2.0, math.prod(shape), dtype=torch.float64).reshape(shape)
    n = torch.linspace(0.75, 1.5, math.prod(n_shape), dtype=torch.float64).reshape(n_shape)
    return p, n


@pytest.mark.parametrize(
    ("x_shape", "shape", "impl", "compiled"),
    [
        *((*shapes, impl, False) for shapes in SHAPES for impl in ("auto", "reference", "c")),
        *((*SHAPES[0], impl, True) for impl in ("auto", "c")),
    ],
    ids=str,
)
def test_values_and_gradients_for_every_shape(
    act: ig.Activation,
    x_shape: tuple[int, ...],
    shape: tuple[int, ...],
    impl: str,
    compiled: bool,
) -> None:
    # the second parameter differs from the first in shape wherever it can
    n_shape = x_shape[-1:] or (1,)
    inputs = [t.requires_grad_() for t in (_samples(x_shape), *_values(shape, n_shape))]
    dout = _samples(x_shape).flip(-1) if x_shape else torch.ones((), dtype=torch.float64)

    def f(x: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return act(x, impl=impl, alpha_p=p, alpha_n=n)

    if compiled:
        torch.compiler.reset()
        f = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    y, want = f(*inputs), _exact(*inputs)
    torch.testing.assert_close(y, want, rtol=1e-13, atol=1e-15)
    got = torch.autograd.grad(y, inputs, dout)
    expected = torch.autograd.grad(want, inputs, dout)
    for a, b, t in zip(got, expected, inputs, strict=True):
        assert a.shape == t.shape
        assert a.dtype == t.dtype
        # sums of at most 210 terms of magnitude up to 30
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", ["auto", "c"])
def test_gradients_per_expert_are_bitwise_equal_for_any_number_of_threads(
    act: ig.Activation, impl: str
) -> None:
    x = torch.randn(2, 4, 3000, 40, requires_grad=True)
    values = [torch.linspace(0.5, 1.0, 4).view(4, 1, 1), torch.rand(40) + 0.6]
    values = [v.requires_grad_() for v in values]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = act(x, impl=impl, alpha_p=values[0], alpha_n=values[1])
            results.append(torch.autograd.grad(y.square().sum(), [x, *values]))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_expert_module_equals_its_experts(act: ig.Activation, dtype: torch.dtype) -> None:
    layer = act.module(shape=(E, 1, 1), impl="c")
    with torch.no_grad():
        for raw in layer.parameters():
            raw.copy_(torch.linspace(-1, 1, E).view(E, 1, 1))
    x = torch.randn(E, T, C).to(dtype)
    experts = []
    for e in range(E):
        expert = act.module(impl="c")
        expert.load_state_dict(
            {k: v[e].reshape(1) if v.ndim else v for k, v in layer.state_dict().items()}
        )
        experts.append(expert(x[e]))
    assert torch.equal(layer(x), torch.stack(experts))
    with torch.no_grad():
        assert torch.equal(layer(x), torch.stack(experts))


def test_many_small_slabs_go_to_the_reference_unless_c_is_named(
    act: ig.Activation, caplog: pytest.LogCaptureFixture
) -> None:
    x, per_row = torch.randn(1000, 2), torch.rand(1000, 1) + 0.5
    dispatch._log_once.cache_clear()
    with caplog.at_level("INFO", logger="integrand"):
        y = act(x, alpha_p=per_row)
    assert torch.equal(y, act(x, impl="reference", alpha_p=per_row))
    assert "slabs" in caplog.text
    torch.testing.assert_close(act(x[:20], impl="c", alpha_p=per_row[:20]), y[:20])


@pytest.mark.parametrize("impl", ["auto", "reference", "c"])
def test_a_parameter_that_would_enlarge_x_is_refused(act: ig.Activation, impl: str) -> None:
    x = torch.randn(4, 8)
    for shape in ((3,), (4,), (2, 1, 8), (3, 1), (4, 4)):
        with pytest.raises(ig.BackendError, match="broadcasts against x of shape"):
            act(x, impl=impl, alpha_p=torch.ones(shape))
    with pytest.raises(ig.BackendError, match="broadcasts against x of shape"):
        act(torch.tensor(1.0), impl=impl, alpha_p=torch.ones(2))


@pytest.mark.parametrize("impl", ["auto", "reference", "c"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_another_dtype_is_one_clear_error(
    act: ig.Activation, impl: str, dtype: torch.dtype
) -> None:
    x = torch.zeros(3, dtype=dtype)
    for call in (lambda: act(x, impl=impl), lambda: act.module(impl=impl)(x)):
        with pytest.raises(ig.BackendError, match="x must be float32"):
            call()
        with torch.no_grad(), pytest.raises(ig.BackendError, match="x must be float32"):
            call()


def test_c_on_another_device_is_one_clear_error(act: ig.Activation) -> None:
    with pytest.raises(ig.BackendError, match="CPU tensors, got one on meta"):
        act(torch.zeros(3, device="meta"), impl="c")
    with pytest.raises(ig.BackendError, match="CPU tensors, got one on meta"):
        act.module(impl="c", device="meta")(torch.zeros(3, device="meta"))
