"""An activation as a stand-alone source file for torch, C, Triton or JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor

from integrand.derivation.program import Program
from integrand.errors import BackendError, SpecError
from integrand.kernels.export import Export
from integrand.nn.constraints import raw_values
from integrand.spec import Spec, check_values, saved_buffers

TARGETS = ("torch", "c", "triton", "jax")


def source(
    spec: Spec,
    program: Program,
    formula: str,
    target: str,
    dtype: torch.dtype = torch.float32,
    values: Mapping[str, Tensor | float] | None = None,
    trained: bool = False,
) -> str:
    """Text of one file that needs integrand no more: f, f' and what the target calls a layer.

    Args:
        target: "torch", "c", "triton" or "jax".
        dtype: what the C and Triton source store; torch and JAX take every floating type.
        values: parameter values to fold in, numbers or one-element tensors; parameters left out
            take their initial values. None keeps the parameters.
        trained: the values are a layer's, which rounding may have put on an open bound.

    Raises:
        BackendError: an unknown target or dtype.
        SpecError: a value that is unknown, out of bounds, too large for the precision that the
            source computes in, or not a single number.
    """
    if values is None:
        raw, buffers = raw_values(spec.params, spec.values()), saved_buffers(spec)
        export = Export(spec, program, formula, raw, buffers)
        return _printed(export, target, dtype).rstrip() + "\n"
    from integrand.derivation.fold import folded

    numbers = _numbers(spec, values)
    check_values(spec, numbers, closed=trained)
    constant = folded(program, numbers)
    if not program.wide and not (target in ("c", "triton") and dtype == torch.float64):
        _check_size(program, constant, numbers)
    export = Export(spec, constant, formula, values=numbers)
    return _printed(export, target, dtype).rstrip() + "\n"


def _numbers(spec: Spec, values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """The value of every parameter, those not given at their initial value."""
    if unknown := set(values) - set(spec.params):
        raise SpecError(
            f"'{spec.name}' has no parameter '{min(unknown)}';"
            f" it has: {', '.join(spec.params) or 'none'}"
        )
    numbers = spec.values()
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise SpecError(
                f"a folded value must be a single number, '{name}' has shape {tuple(value.shape)}:"
                " leave out values= and keep the parameters"
            )
        number = float(value) if _is_number(value) else math.nan
        if not math.isfinite(number):
            raise SpecError(f"'{name}' must be a finite number, got {value!r}")
        numbers[name] = number
    return numbers


def _is_number(value: object) -> TypeGuard[Tensor | Real]:
    if isinstance(value, Tensor):
        return value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_size(program: Program, constant: Program, numbers: Mapping[str, float]) -> None:
    """Refuse values of which fp32 makes an infinity, and those it makes one of on the way."""
    largest = torch.finfo(torch.float32).max
    for name, number in numbers.items():
        if abs(number) > largest:
            raise SpecError(
                f"'{name}' must be at most {largest!r} in size, float32's largest number, in which"
                f" this source computes, got {number:g}"
            )
    own = {op for op in program.ops if op[0] == "const"}
    for op in constant.ops:
        if op[0] == "const" and op not in own and largest < abs(float(op[1])) < math.inf:
            raise SpecError(
                f"the values must keep the constants made of them below {largest!r}, float32's"
                f" largest number, in which this source computes, got {float(op[1]):g}"
            )


def _printed(export: Export, target: str, dtype: torch.dtype) -> str:
    match target:
        case "c":
            from integrand.kernels import c_export

            return c_export.source(export, dtype)
        case "triton":
            from integrand.kernels import triton_export

            return triton_export.source(export, dtype)
        case "jax":
            from integrand.kernels import jax_print

            return jax_print.source(export)
        case "torch":
            from integrand.kernels import torch_print

            return torch_print.source(export)
    raise BackendError(f"source is written for {', '.join(TARGETS)}, not for '{target}'")
