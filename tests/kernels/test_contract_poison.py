"""Memory that a kernel leaves unwritten is NaN in this suite, so that no test mistakes it."""

import threading
from types import SimpleNamespace

import torch

import integrand as ig
from integrand.kernels import c


def _idle() -> c.Kernel:
    """A kernel whose compiled code writes nothing."""
    kernel = c.Kernel(ig.activation("relu").program, torch.float32)
    kernel.__dict__["plain"] = SimpleNamespace(forward=lambda *_: 0, backward=lambda *_: 0)
    return kernel


def test_an_unwritten_result_is_caught() -> None:
    x = torch.randn(100)
    assert _idle().forward(x, []).isnan().all()
    results = []

    def backward() -> None:
        results.append(_idle().backward(x, x, [])[0])

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    assert results[0].isnan().all()


def test_integers_and_methods_are_poisoned_too() -> None:
    scope = {"__name__": "integrand.anything", "torch": torch}
    exec("a = torch.empty(3, dtype=torch.int32); b = torch.ones(2).new_empty(3)", scope)
    assert scope["a"].tolist() == [2**31 - 1] * 3
    assert scope["b"].isnan().all()
