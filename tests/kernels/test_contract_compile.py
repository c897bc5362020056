"""The registered operators and every tracer: compile, export, make_fx, fake and meta tensors."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import integrand as ig
from integrand.kernels import reference

IMPLS = ("auto", "reference", "c")


@pytest.fixture(scope="module")
def act() -> ig.Activation:
    return ig.activation("xielu")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


INPUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.randn(3, 8),
    "permuted": lambda: torch.randn(3, 4, 8).permute(2, 0, 1),
    "sliced": lambda: torch.randn(3, 16)[:, ::2],
    "permuted_slice": lambda: torch.randn(4, 16, 3).permute(2, 0, 1)[..., ::2],
    "expanded": lambda: torch.randn(8).expand(3, 8),
    "half": lambda: torch.randn(3, 8).bfloat16(),
    "empty": lambda: torch.randn(0, 8),
    "scalar": lambda: torch.randn(()),
}
PARAMS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "single": lambda x: [torch.tensor([v]) for v in (0.8, 0.9, 0.5)],
    "channels": lambda x: [torch.rand(x.shape[-1:]) + 0.5, torch.tensor([0.9]), torch.tensor(0.5)],
    "experts": lambda x: [
        torch.rand(x.shape[0], *[1] * (x.ndim - 1)) + 0.5,
        torch.rand(x.shape[-1:]) + 0.5,
        torch.tensor([0.5]),
    ],
}


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("layout", "params"),
    [(layout, "single") for layout in INPUTS]
    + [(layout, p) for layout in ("contiguous", "permuted", "sliced") for p in PARAMS][1:],
)
def test_operators_pass_opcheck(act: ig.Activation, layout: str, params: str, grad: bool) -> None:
    x = INPUTS[layout]()
    values = PARAMS[params](x)
    dout = torch.randn(x.shape).to(x.dtype)
    key = act.program.digest
    if grad:
        x, values = x.detach().requires_grad_(), [v.requires_grad_() for v in values]
    else:
        for need in (False, True):
            torch.library.opcheck(torch.ops.integrand.backward, (x, dout, values, key, need))
    torch.library.opcheck(torch.ops.integrand.forward, (x, values, key))


def test_operators_without_parameters_pass_opcheck() -> None:
    key = ig.activation("silu").program.digest
    for x in (torch.randn(5), torch.randn(5, requires_grad=True)):
        torch.library.opcheck(torch.ops.integrand.forward, (x, [], key))
    torch.library.opcheck(
        torch.ops.integrand.backward, (torch.randn(5), torch.randn(5), [], key, True)
    )


def _neighbours(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(x * 2 + 1) * 3


@pytest.mark.parametrize("impl", ["auto", "c"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_one_graph_for_every_shape(act: ig.Activation, impl: str, training: bool) -> None:
    layer, graphs = act.module(impl=impl), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(_neighbours(layer), fullgraph=True, dynamic=True, backend=count)
    with torch.set_grad_enabled(training):
        for shape in ((3, 8), (5, 16), (7, 33)):
            x = torch.randn(shape, requires_grad=training)
            y, want = compiled(x), _neighbours(layer)(x)
            torch.testing.assert_close(y, want)
            if training:
                wrt = [x, *layer.parameters()]
                got = torch.autograd.grad(y.sum(), wrt)
                expected = torch.autograd.grad(want.sum(), wrt)
                torch.testing.assert_close(got, expected)
    assert len(graphs) == 1
    assert not torch._dynamo.explain(_neighbours(layer))(torch.randn(3, 8)).break_reasons


def test_inductor_fuses_auto_with_its_neighbours(act: ig.Activation) -> None:
    layer = act.module().requires_grad_(False)
    compiled = torch.compile(_neighbours(layer), fullgraph=True)
    with torch.no_grad():
        _, (forward,) = run_and_get_code(compiled, torch.randn(64, 64))
    kernels = re.findall(r"^cpp_fused\w* = async_compile", forward, re.MULTILINE)
    assert len(kernels) == 1
    assert "integrand" not in forward


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("impl", ["auto", "c"])
def test_an_exported_module_survives_saving(act: ig.Activation, impl: str, strict: bool) -> None:
    layer = act.module(impl=impl)
    x = torch.randn(4, 8)
    sizes = {"x": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(layer, (x,), strict=strict, dynamic_shapes=sizes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for z in (x, torch.randn(7, 8)):
        torch.testing.assert_close(loaded(z), layer(z))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), layer(x))
    # its parameters still train
    wrt = list(loaded.parameters())
    got = torch.autograd.grad(loaded(x).sum(), wrt)
    expected = torch.autograd.grad(layer(x).sum(), [layer.alpha_p, layer.alpha_n])
    # as fp32 numbers: a graph may add up in another order
    torch.testing.assert_close(torch.cat(got).sort()[0], torch.cat(expected).sort()[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_make_fx_records_the_computation(act: ig.Activation, impl: str) -> None:
    x, z = torch.randn(9), torch.randn(9)
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(lambda t: act(t, impl=impl), tracing_mode=mode)(x)
        torch.testing.assert_close(graph(z), act(z, impl=impl))


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_dispatch_mode_sees_the_activation(act: ig.Activation, impl: str) -> None:
    x = torch.randn(9, requires_grad=True)
    with _Watch() as mode:
        y = act.module(impl=impl)(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, act(x))
    torch.testing.assert_close(dx, torch.autograd.grad(act(x).sum(), x)[0])
    if impl != "reference":
        assert {"integrand.forward.default", "integrand.backward.default"} <= mode.seen


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_changes_nothing(act: ig.Activation, impl: str) -> None:
    layer, x = act.module(impl=impl), torch.randn(64).bfloat16().requires_grad_()
    want = layer(x)
    expected = torch.autograd.grad(want.sum(), [x, *layer.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert layer(x.float()).dtype == torch.float32
    assert torch.equal(y, want)
    got = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_checkpointing_gives_the_same_gradients(
    act: ig.Activation, impl: str, reentrant: bool
) -> None:
    layer, x = act.module(impl=impl), torch.randn(3, 16, requires_grad=True)
    wrt = [x, *layer.parameters()]
    layer(x).square().sum().backward()
    expected = [t.grad.clone() for t in wrt]
    for t in wrt:
        t.grad = None
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert all(torch.equal(t.grad, g) for t, g in zip(wrt, expected, strict=True))


@pytest.mark.parametrize("impl", IMPLS)
def test_copies_and_pickles_compute_the_same(act: ig.Activation, impl: str) -> None:
    layer, x = act.module(impl=impl, shape=(4, 1, 1)), torch.randn(4, 300, 2)
    with torch.no_grad():
        layer(x)
        plain = act.module(impl=impl)
        plain(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    moved = copy.deepcopy(plain)
    with torch.no_grad():
        moved.alpha_p.add_(1.0)
        assert not torch.equal(moved(x), plain(x))


@pytest.mark.parametrize("name", ["xielu", "integral_silu"])
def test_meta_tensors_have_a_shape_and_no_cost(name: str) -> None:
    layer = ig.activation(name).module(device="meta")
    x = torch.empty(1 << 20, 1 << 20, dtype=torch.bfloat16, device="meta", requires_grad=True)
    y = layer(x)
    assert y.is_meta and y.shape == x.shape and y.dtype == x.dtype
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], torch.empty_like(y))
    assert gradients[0].shape == x.shape
    with torch.no_grad():
        assert layer(x).is_meta


BIG = (2**16 + 1, 2**16)


@pytest.mark.parametrize("impl", IMPLS)
def test_more_than_two_to_the_31_elements_keep_their_shape(act: ig.Activation, impl: str) -> None:
    def step(x: Tensor, *params: Tensor) -> list[Tensor]:
        values = dict(zip(act.spec.params, params, strict=True))
        y = act(x, impl=impl, **values)
        return [y, *torch.autograd.grad(y, [x, *params], torch.ones_like(y))]

    with FakeTensorMode():
        x = torch.empty(BIG, dtype=torch.bfloat16, requires_grad=True)
        for shape in ((1,), BIG[1:], (BIG[0], 1)):
            params = [torch.ones(shape, requires_grad=True) for _ in act.spec.params]
            y, dx, *dparams = step(x, *params)
            assert y.shape == dx.shape == BIG
            assert y.stride() == dx.stride() == (BIG[1], 1)
            assert all(g.shape == shape for g in dparams)
            with torch.no_grad():
                assert act.module(impl=impl)(x).shape == BIG


def test_more_than_two_to_the_31_elements_compile(act: ig.Activation) -> None:
    traced: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        (out,) = graph.graph.output_node().args[0]
        traced.append(out.meta["example_value"].shape)
        return graph.forward

    for impl in ("auto", "c"):
        f = torch.compile(lambda t, i=impl: act(t, impl=i), fullgraph=True, backend=backend)
        f(torch.empty(BIG, device="meta") if impl == "auto" else torch.empty(3, 4))
    assert traced[0] == BIG


@pytest.mark.parametrize("shape", [(1,), (8,), (4, 1)])
def test_a_gpu_step_needs_no_synchronisation(act: ig.Activation, shape: tuple[int, ...]) -> None:
    # reading a value on the host fails on a fake tensor, as it would break a CUDA graph; a torch
    # without CUDA cannot record autograd there, so the backward is called by itself
    with FakeTensorMode(), torch.no_grad():
        layer = act.module(shape=shape, device="cuda")
        x = torch.empty(4, 8, device="cuda", dtype=torch.bfloat16)
        for impl in ("auto", "reference"):
            layer.impl = impl
            assert layer(x).device.type == "cuda"
            act(x, impl)
        values = list(layer.values().values())
        dx, dparams = reference.backward(act.program, x, x, values, [True] * 3)
        assert {t.device.type for t in (dx, *dparams)} == {"cuda"}
        with pytest.raises(ig.BackendError, match="CPU tensors, got one on cuda"):
            act(x, impl="c")
