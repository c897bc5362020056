"""f with a backward that keeps y = f(x) instead of x, where df is a function of y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.errors import BackendError
from integrand.kernels import dispatch, ops, reference, slabs, triton
from integrand.kernels.autograd import batched, tracked, transformed
from integrand.kernels.rounded_output import verdict

SAVES = ("input", "output", "output-approximate")


class OutputOnly:
    """The backward from y of one activation.

    Args:
        program: the activation's; inverse: df and the partials from y.
        name: of the activation, for messages.
        values: the parameter values at which df from the rounded output is checked.
        save: "output" where that must pass the check in the dtype of x, "output-approximate"
            where its error is accepted.
    """

    def __init__(
        self, program: Program, inverse: Program, name: str, values: Sequence[float], save: str
    ):
        self.program, self.inverse, self.name = program, inverse, name
        self.values, self.exact = tuple(values), save == "output"
        ops.register(inverse)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        ops.register(self.inverse)

    def apply(self, x: Tensor, params: Sequence[Tensor], impl: str = "auto") -> Tensor:
        """f(x); reverse mode keeps y and the parameter values alone.

        Raises:
            BackendError: f' from the rounded output is not exact in this dtype; a transform or
                forward mode, which need x.
        """
        refused = _refusal(self, x.dtype) if self.exact else ""
        if refused:
            raise BackendError(refused)
        if not tracked(x, params):
            return dispatch.apply(self.program, x, params, impl)
        if not torch.compiler.is_compiling() and transformed():
            raise BackendError(
                f"'{self.name}' with save='output' has reverse mode alone: under a torch.func"
                " transform or in forward mode use save='input'"
            )
        return _FromOutput.apply(self.program, self.inverse, impl, x, *params)


def _refusal(backward: OutputOnly, dtype: torch.dtype) -> str:
    """Why y is not enough in this dtype, empty where it is."""
    found = verdict(backward.program, backward.inverse, dtype, backward.values)
    if found.ok:
        return ""
    return (
        f"'{backward.name}' cannot keep its {found.dtype} output alone with exact gradients:"
        f" {found}; save='output-approximate' accepts that, save='input' is exact"
    )


# what torch.compiler.assume_constant_result does, which would import all of dynamo here
_refusal._dynamo_marked_constant = True  # pyrefly: ignore[missing-attribute]


class _FromOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, program: Program, inverse: Program, impl: str, x: Tensor, *params: Tensor
    ) -> Tensor:
        y = dispatch.apply(program, x, params, impl)
        ctx.inverse, ctx.impl = inverse, impl
        ctx.save_for_backward(y, *params)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        y, *params = ctx.saved_tensors
        (dout,) = grads
        needed = ctx.needs_input_grad[4:]
        if torch.compiler.is_compiling():
            dx, dparams = reference.backward(ctx.inverse, y, dout, params, needed)
            return None, None, None, dx, *dparams
        if torch.is_grad_enabled():
            raise BackendError(
                "the gradient of a gradient needs x, which save='output' does not keep: use"
                " save='input'"
            )
        plain = not (transformed() or batched(dout) or torch._C._len_torch_dispatch_stack())
        kernel = _kernel(ctx.inverse, y, ctx.impl) if plain else None
        if kernel is None:
            dx, dparams = reference.backward(ctx.inverse, y, dout, params, needed)
        else:
            dx, dparams = slabs.backward(kernel, y, dout, params, any(needed))
            dparams = dparams or [None] * len(params)
        return None, None, None, dx, *dparams


def _kernel(inverse: Program, y: Tensor, impl: str) -> Any:
    """The kernel of the named implementation, None where the reference must do."""
    if impl == "reference" or type(y) is not Tensor:
        return None
    if y.is_cpu:
        key = inverse.digest
    elif impl == "triton" or triton.chosen(y.device.type):
        key = ops.TRITON + inverse.digest
    else:
        return None
    try:
        return ops.kernel(key, y.dtype)
    except BackendError:
        return None
