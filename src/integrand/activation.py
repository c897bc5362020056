"""The facade a user holds: one derived activation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from integrand.derivation.derive import Derivation, derive_program
from integrand.derivation.invert import Inverse, invert
from integrand.derivation.program import Program
from integrand.errors import BackendError, SpecError
from integrand.kernels import SAVES, OutputOnly, apply, constants, register, unwatched
from integrand.nn.pointwise import Pointwise
from integrand.nn.source import source
from integrand.spec import Spec, check_values, row

if TYPE_CHECKING:
    from integrand.derivation.properties import Properties


@dataclass(frozen=True, eq=False, repr=False)
class Activation:
    """An activation derived from a spec: immutable, made by `derive` or `activation`.

    Calling it applies f elementwise:

        y = act(x, alpha_p=1.0)     # parameter VALUES; omitted ones take their initial value

    Attributes:
        spec: the declaration; derivation: everything derived from it, as data.
        f, df: SymPy expressions of f and of the declared gradient, in stable form.
        partials: df/dparameter by name, the other values held fixed.
        properties: smoothness, range of the gradient, limits, roots, Gaussian moments.
        program: the scalar program that every implementation runs.
        path: how the integral was found.
        verified: largest deviation from the declared text found in multi-precision.
    """

    spec: Spec
    derivation: Derivation

    def __post_init__(self) -> None:
        register(self.program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash((self.spec.name, self.spec.sha256))

    def __reduce__(self) -> tuple[Any, ...]:
        return derive, (self.spec,)

    def __repr__(self) -> str:
        return f"Activation({self.name}: f(x) = {self.formula})"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def formula(self) -> str:
        """Text of f."""
        return self.derivation.formula

    @property
    def program(self) -> Program:
        return self.derivation.program

    @property
    def path(self) -> tuple[str, ...]:
        return self.derivation.path

    @property
    def verified(self) -> Mapping[str, float]:
        return self.derivation.verified

    @cached_property
    def f(self) -> Any:
        return self.derivation.expression(self.spec, "f")

    @cached_property
    def df(self) -> Any:
        return self.derivation.expression(self.spec, "df")

    @cached_property
    def partials(self) -> dict[str, Any]:
        return {p: self.derivation.expression(self.spec, f"d_{p}") for p in self.spec.params}

    @cached_property
    def properties(self) -> Properties:
        from integrand.derivation.properties import properties

        return properties(self.spec, self.program)

    @cached_property
    def inverse(self) -> Inverse:
        """df and the partials as functions of y = f(x), or the reason why there are none."""
        return invert(self.spec, self.derivation)

    def output_only(self, save: str = "output") -> OutputOnly:
        """The backward that keeps y = f(x) instead of x.

        Args:
            save: "output" refuses a dtype in which df from the rounded output fails its check at
                the initial parameter values; "output-approximate" accepts its error.

        Raises:
            BackendError: df is no function of y in closed form.
        """
        if save not in SAVES[1:]:
            raise BackendError(f"save must be one of {', '.join(SAVES)}, got '{save}'")
        inverse = self.inverse
        if inverse.program is None:
            raise BackendError(
                f"'{self.name}' must keep x for its backward: {inverse.reason}; use save='input'"
            )
        values = [float(self.spec.params[n].init) for n in self.program.params]
        return OutputOnly(self.program, inverse.program, self.name, values, save)

    def __call__(
        self, x: Tensor, impl: str = "auto", save: str = "input", **params: Tensor | float
    ) -> Tensor:
        """f(x) for parameter values; differentiable in x and in values given as tensors.

        Args:
            x: float tensor of any shape.
            impl: "auto", "reference", "c" or "triton".
            save: what backward keeps: "input", "output" or "output-approximate" (`output_only`).
            params: values by name, numbers or tensors of shape (), (1,), (C,) or any other that
                broadcasts against x without enlarging it.

        Raises:
            SpecError: an unknown parameter.
            BackendError: the named implementation cannot run here.
        """
        if unknown := set(params) - set(self.spec.params):
            raise SpecError(
                f"'{self.name}' has no parameter '{min(unknown)}';"
                f" it has: {', '.join(self.spec.params) or 'none'}"
            )
        if not isinstance(x, Tensor):
            raise BackendError(f"x must be a tensor, got {type(x).__name__}")
        if not params and save == "input" and x.is_cpu and unwatched():
            values, numbers = self._initial[x.dtype is torch.float64]
            return apply(self.program, x, values, impl, numbers)
        if params and not torch.compiler.is_compiling():  # a check there would be a guard
            self._check_numbers(params)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        values = []
        for name, p in self.spec.params.items():
            v = params.get(name, float(p.init))
            if not isinstance(v, Tensor):
                v = torch.full((1,), v, dtype=wide, device=x.device)
            values.append(v.reshape(1) if v.ndim == 0 else v)
        if save != "input":
            if fixed := sorted(n for n in params if not self.spec.params[n].trainable):
                raise BackendError(
                    f"save='{save}' keeps constants at their declared values, got one for"
                    f" '{fixed[0]}': declare it in a spec of its own"
                )
            return self._output_only(save).apply(x, values, impl)
        return apply(self.program, x, values, impl)

    def _check_numbers(self, params: Mapping[str, Tensor | float]) -> None:
        """SpecError for a number out of its bounds; a tensor's elements are not looked at."""
        given = {n: float(v) for n, v in params.items() if not isinstance(v, Tensor)}
        if given:
            tensors = params.keys() - given.keys()
            check_values(self.spec, self.spec.values() | given, tensors)

    @cached_property
    def _output_only(self) -> Any:
        return functools.cache(self.output_only)

    @cached_property
    def _initial(self) -> tuple[tuple[list[Tensor], Any], ...]:
        """The initial values and the C kernels' form of them, in fp32 and in fp64."""
        with torch.inference_mode(False):
            inits = [float(self.spec.params[n].init) for n in self.program.params]
            tensors = [
                [torch.full((1,), v, dtype=dtype, device="cpu") for v in inits]
                for dtype in (torch.float32, torch.float64)
            ]
        return tuple((values, constants(values)) for values in tensors)

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
        save: str = "input",
    ) -> Pointwise:
        """A new `nn.Module` with trainable parameters at their initial values.

        `save` is what backward keeps: "input", "output" or "output-approximate" (`output_only`).
        """
        output_only = None if save == "input" else self.output_only(save)
        return Pointwise(
            self.spec, self.program, self.formula, dtype, device, shape, impl, output_only
        )

    def source(
        self,
        target: str,
        dtype: torch.dtype = torch.float32,
        values: Mapping[str, Tensor | float] | None = None,
    ) -> str:
        """Text of one readable file with f, f' and a layer, which needs integrand no more.

        Args:
            target: "torch", "c", "triton" or "jax".
            dtype: what the C or Triton source stores; torch and JAX take every floating type.
            values: parameter values to fold in, such as `layer.values()`; those left out take
                their initial values, and the source has no parameters. None keeps them.

        Raises:
            BackendError: an unknown target or dtype.
            SpecError: a value that is unknown, out of bounds or not a single number.
        """
        return source(self.spec, self.program, self.formula, target, dtype, values)


def derive(spec: Spec) -> Activation:
    """Derive an activation from its declared gradient (or function); cached by content.

    Raises:
        SpecError, DerivationError: with one sentence about what must hold and what to do.
    """
    if not isinstance(spec, Spec):
        raise SpecError(f"derive takes a Spec, got {type(spec).__name__}; names go to activation()")
    return Activation(spec, _derivation(spec.sha256, _Keep(spec)))


class _Keep:
    # the hash identifies the mathematics, so the spec itself must not take part in the cache key
    def __init__(self, spec: Spec):
        self.spec = spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keep)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(1024)
def _derivation(sha256: str, keep: _Keep) -> Derivation:
    return derive_program(keep.spec)


def activation(name: str) -> Activation:
    """The derived catalogue entry of a name or alias; `names()` lists them."""
    if not isinstance(name, str):
        raise SpecError(f"activation takes a catalogue name, got {type(name).__name__}")
    return derive(row(name).spec)
