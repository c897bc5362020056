"""Training runs that make activations sparse, each beside plain ReLU at an equal budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from integrand.activation import activation
from integrand.nn.gated import MakesModule
from integrand.nn.jump import FATReLU
from integrand.sparsity.penalty import Penalised, Stage
from integrand.sparsity.shifted import clipped_shifted_relu, shifted_relu, stable_start
from integrand.sparsity.switching import Stochastic, Switched
from integrand.train.config import TrainConfig, Variant
from integrand.train.studies.recipes import sparsity


class Induced(NamedTuple):
    """The arguments of `matched`, less the folder."""

    config: TrainConfig
    variants: tuple[Variant, ...]
    activations: Mapping[str, MakesModule]


PUSH = (Stage(0.05, 1e-4), Stage(0.5, 5e-4), Stage(0.75, 1e-3))


def induced(data: str = "python-docs") -> Induced:
    """The decoders of the recipe `sparsity`, pushed towards zeros in every way of this room.

    The first variant is the control: plain ReLU without a push. Shares of zeros and of steps are
    those of the sources; lambda is ours, their normalisation being another. Shifts and clips give
    80 % zeros at the start of training: blocks read normalised values, so that their
    pre-activations have the variance d_model init_std^2. The clip is that of `stable_start` for
    this variance, with slope 0.5; the stable initialisation itself is not drawn. Weights are the
    decoder's, there are no biases, and the norm before a block sets the variance of its input.
    """
    config = sparsity(data).config
    variance = config.model.d_model * config.model.init_std**2
    start = stable_start(0.8, 0.5, variance)
    relu = activation("relu")
    ways: dict[str, MakesModule] = {
        "ReLU": relu,
        "ReLU L1": Penalised(relu, PUSH),
        "swap L1": Penalised(Switched("silu", "relu", 0.05), PUSH),
        "Swi+FT": Switched("silu", "relu", 0.9),
        "StochA": Stochastic(0.7, 0.95),
        "shifted": shifted_relu(start.shift),
        "clipped": clipped_shifted_relu(start.shift, start.clip),
        "FATReLU": FATReLU(0.1),
    }
    plain = [Variant(name=name, activation=_name(act)) for name, act in ways.items()]
    drelu = Variant(name="dReLU", activation="relu", gated=True, activate_up=True)
    return Induced(config, (*plain, drelu), {_name(act): act for act in ways.values()})


def _name(act: MakesModule) -> str:
    """The name that a run's config keeps: with the values that the declaration has here."""
    spec = getattr(act, "spec", None)
    if spec is None or spec.name != act.name or not spec.params:
        return act.name
    return f"{act.name}, {', '.join(f'{n} {float(p.init):.6g}' for n, p in spec.params.items())}"
