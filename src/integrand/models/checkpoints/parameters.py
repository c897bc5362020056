"""The neutral form of xIELU's parameters: what every checkpoint format is read to and written from.

alpha_p = P(a_p), alpha_n = beta + P(a_n), where a is the raw (stored) number and P, the
parametrisation, is softplus (arXiv:2411.13010, transformers, Megatron) or the absolute value
(later research forks, which train beta as |b| too).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from integrand.errors import DataError
from integrand.nn.constraints import inverse_softplus

ALPHAS = ("alpha_p", "alpha_n")
# constants of the published code, where a format does not store them
BETA, EPS = 0.5, -1e-6
# raw parameters of a layer: alpha_p, alpha_n, beta, eps
Raw = Mapping[str, Tensor]


def _softplus(raw: Tensor) -> Tensor:
    # F.softplus is the identity above 20, which costs 1e-10
    return torch.logaddexp(raw, torch.zeros_like(raw))


def _inverse_softplus(part: Tensor) -> Tensor:
    raw = [inverse_softplus(v) for v in part.flatten().tolist()]
    return torch.tensor(raw, dtype=torch.float64).reshape(part.shape)


@dataclass(frozen=True)
class Parametrisation:
    """A positive part from a raw parameter, and back; all in fp64."""

    part: Callable[[Tensor], Tensor]
    raw: Callable[[Tensor], Tensor]


PARAMETRISATIONS = {
    "softplus": Parametrisation(_softplus, _inverse_softplus),
    "abs": Parametrisation(torch.abs, torch.clone),
}


@dataclass(frozen=True)
class XieluParameters:
    """xIELU's parameters, one entry of `raw` per layer, in the dtype they are stored in.

    Attributes:
        raw: per layer `alpha_p`, `alpha_n`, `beta`, `eps`: shape (1,), or (E,) per expert; beta and
            eps may have shape ().
        parametrisation: "softplus" or "abs": what the raw numbers mean. beta is stored plainly
            beside softplus, and as |b| beside abs.
    """

    raw: tuple[Raw, ...]
    parametrisation: str

    def values(self) -> list[dict[str, Tensor]]:
        """Per layer the values `alpha_p`, `alpha_n`, `beta`, `eps` that f is made of, in fp64."""
        found = []
        for layer in range(len(self.raw)):
            parts = self.parts(layer)
            alpha_n = parts["beta"] + parts["alpha_n"]
            eps = self.raw[layer]["eps"].double()
            found.append({**parts, "alpha_n": alpha_n, "eps": eps})
        return found

    def parts(self, layer: int) -> dict[str, Tensor]:
        """alpha_p, alpha_n - beta and beta of a layer, in fp64."""
        raw, part = self.raw[layer], PARAMETRISATIONS[self.parametrisation].part
        beta = raw["beta"].double()
        parts = {name: part(raw[name].double()) for name in ALPHAS}
        return {**parts, "beta": beta.abs() if self.parametrisation == "abs" else beta}

    def stored_as(self, parametrisation: str, dtype: torch.dtype | None = None) -> XieluParameters:
        """The same values under a parametrisation: bit for bit where it is the same one.

        Otherwise each positive part v = softplus(a) is rounded once, to u = half an ulp relative:
        to abs by a factor 1 +- u, to softplus by 1 +- u max(1, |a|), since sigmoid(a) |a| / v
        never exceeds max(1, |a|).

        Args:
            dtype: of the raw parameters; None keeps the dtype that each layer has.

        Raises:
            DataError: a value that the parametrisation cannot reach, or that dtype cannot hold.
        """
        if parametrisation not in PARAMETRISATIONS:
            known = ", ".join(PARAMETRISATIONS)
            raise DataError(f"a parametrisation is one of {known}, got '{parametrisation}'")
        check_kinds(self.raw)
        layers = []
        for index, old in enumerate(self.raw):
            new = dict(old)
            if parametrisation != self.parametrisation:
                parts = self.parts(index)
                for name in ALPHAS:
                    _check_reachable(parametrisation, name, parts[name], index)
                    made = PARAMETRISATIONS[parametrisation].raw(parts[name])
                    new[name] = made.to(old[name].dtype)
                new["beta"] = parts["beta"].to(old["beta"].dtype)
            kept = {name: t.to(dtype or t.dtype) for name, t in new.items()}
            _check_finite(kept, index)
            layers.append(kept)
        return XieluParameters(tuple(layers), parametrisation)

    @classmethod
    def from_values(
        cls,
        alpha_p: Sequence[float],
        alpha_n: Sequence[float],
        beta: float | Sequence[float] = BETA,
        eps: float = EPS,
        *,
        parametrisation: str = "softplus",
        dtype: torch.dtype = torch.float32,
    ) -> XieluParameters:
        """Raw parameters of given values, one per layer.

        Raises:
            DataError: values outside alpha_p > 0, alpha_n > beta > 0, as raw parameters often are.
        """
        betas = [float(beta)] * len(alpha_p) if isinstance(beta, float | int) else list(beta)
        if not len(alpha_p) == len(alpha_n) == len(betas):
            raise DataError(
                "alpha_p, alpha_n and beta need one value per layer, got "
                f"{len(alpha_p)}, {len(alpha_n)} and {len(betas)}"
            )
        layers = []
        for layer, (p, n, b) in enumerate(zip(alpha_p, alpha_n, betas, strict=True)):
            if not (p > 0 and n > b > 0):
                raise DataError(
                    f"values need alpha_p > 0 and alpha_n > beta > 0, got alpha_p={p:g}, "
                    f"alpha_n={n:g}, beta={b:g} in layer {layer}; raw parameters are no values: "
                    "put them into XieluParameters(raw=...)"
                )
            parts = {"alpha_p": p, "alpha_n": n - b, "beta": b, "eps": eps}
            layers.append({k: torch.tensor([v], dtype=torch.float64) for k, v in parts.items()})
        return cls(tuple(layers), "abs").stored_as(parametrisation, dtype)


def check_kinds(layers: Sequence[Raw]) -> None:
    """Raise `DataError` where what is held are not real numbers, one or as many per parameter.

    Integers and bools would be rounded without a word, and meta tensors hold nothing.
    """
    if not layers:
        raise DataError("raw parameters need at least one layer, got none")
    for index, raw in enumerate(layers):
        if lost := [name for name in (*ALPHAS, "beta", "eps") if name not in raw]:
            raise DataError(f"layer {index} needs raw parameters {', '.join(lost)}, and lacks them")
        for name, tensor in raw.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                kind = getattr(tensor, "dtype", type(tensor).__name__)
                raise DataError(
                    f"{name} of layer {index} must be a float tensor, got "
                    f"{str(kind).removeprefix('torch.')}; raw parameters are real numbers"
                )
            if tensor.is_meta:
                raise DataError(
                    f"{name} of layer {index} must hold numbers, got a tensor on the meta device; "
                    "load the weights first"
                )
        lengths = {name: tensor.numel() for name, tensor in raw.items()}
        if 0 in lengths.values() or len({*lengths.values()} - {1}) > 1:
            raise DataError(
                f"the parameters of layer {index} must have one length, or 1, got {lengths}"
            )


def _check_reachable(parametrisation: str, name: str, part: Tensor, layer: int) -> None:
    if parametrisation == "softplus" and not bool((part > 0).all()):
        least = "0" if name == "alpha_p" else "beta"
        raise DataError(
            f"softplus reaches only {name} > {least}, got {name} = {least} in layer {layer}; "
            "keep the abs parametrisation"
        )


def _check_finite(raw: Raw, layer: int) -> None:
    for name, tensor in raw.items():
        if not bool(torch.isfinite(tensor.double()).all()):
            raise DataError(
                f"raw parameters must be finite, got {tensor.tolist()} for {name} of layer {layer}"
                f" in {str(tensor.dtype).removeprefix('torch.')}"
            )
