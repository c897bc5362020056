"""The activation of a run, as its config changes the declaration."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from integrand.errors import Error
from integrand.nn.gated import MakesModule
from integrand.nn.jump import jump
from integrand.spec import Spec
from integrand.train.config import TrainConfig


def chosen(config: TrainConfig, given: MakesModule | None = None) -> MakesModule:
    """The catalogue entry named in `config`, or `given`, with the config's changes.

    `activation_fixed` and `activation_trained` decide which parameters train,
    `activation_per_channel` and `activation_dtype` how the raw parameters are kept.

    Raises:
        Error: a name that is not a parameter of the activation.
    """
    from integrand.activation import Activation, activation, derive

    act: Any = given or jump(config.activation) or activation(config.activation)
    if config.activation_fixed or config.activation_trained:
        if not isinstance(act, Activation):
            raise Error(f"{act.name} has no declaration whose parameters could be fixed or trained")
        act = derive(_retrained(act.spec, config))
    if not config.activation_per_channel and config.activation_dtype == "fp32":
        return act
    return Kept(
        act,
        (config.model.d_hidden,) if config.activation_per_channel else (1,),
        torch.bfloat16 if config.activation_dtype == "bf16" else None,
    )


def _retrained(spec: Spec, config: TrainConfig) -> Spec:
    wanted = dict.fromkeys(config.activation_fixed, False)
    wanted |= dict.fromkeys(config.activation_trained, True)
    if unknown := wanted.keys() - spec.params.keys():
        raise Error(
            f"'{min(unknown)}' is not a parameter of {spec.name}, which has "
            f"{', '.join(spec.params) or 'none'}"
        )
    params = {
        name: dataclasses.replace(param, trainable=wanted.get(name, param.trainable))
        for name, param in spec.params.items()
    }
    return dataclasses.replace(spec, params=params)


@dataclass(frozen=True, slots=True)
class Kept:
    """An activation whose modules keep raw parameters of a given shape and dtype."""

    of: Any
    shape: tuple[int, ...]
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def spec(self) -> Any:
        return getattr(self.of, "spec", None)

    @property
    def attach(self) -> Any:
        return getattr(self.of, "attach", None)

    def module(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] = (1,),
        impl: str = "auto",
    ) -> nn.Module:
        return self.of.module(
            dtype=self.dtype or dtype, device=device, shape=self.shape or shape, impl=impl
        )
