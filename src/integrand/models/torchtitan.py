"""integrand's activations in torchtitan, through its own overrides.

    torchtitan_train --module llama3 --config llama3_8b \\
        --override.imports 'integrand.models.torchtitan.plain={"activation": "xielu"}'

Written against torchtitan of 2026-08-21 (commit b5bcd76), where `FeedForward` keeps `w1` and `w3`
apart, and the form that followed, where they are one matrix and an `_activation` method joins them.
Only torchtitan imports this module.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from integrand.activation import Activation, activation, derive
from integrand.errors import Error
from integrand.models.width import plain_width
from integrand.nn.gated import gated_product
from integrand.nn.pointwise import Pointwise
from integrand.nn.recompute import Recomputed, again, saving, traced, worthwhile
from integrand.spec import read_spec

try:
    import spmd_types as spmd  # pyrefly: ignore[missing-import]
    from torchtitan.config import derive as derived  # pyrefly: ignore[missing-import]
    from torchtitan.config import override  # pyrefly: ignore[missing-import]
    from torchtitan.models.common.decoder_sharding import (  # pyrefly: ignore[missing-import]
        dense_param_placement,
    )
    from torchtitan.models.common.feed_forward import (  # pyrefly: ignore[missing-import]
        FeedForward,
    )
    from torchtitan.models.common.linear import Linear  # pyrefly: ignore[missing-import]
    from torchtitan.protocols.module import Module  # pyrefly: ignore[missing-import]
    from torchtitan.protocols.sharding import ShardingConfig  # pyrefly: ignore[missing-import]
except ImportError as error:
    raise Error(
        f"integrand.models.torchtitan is for torchtitan to import, and it cannot be: {error}; "
        "pip install torchtitan"
    ) from None


class TitanActivation(Pointwise, Module):
    """`Pointwise` as torchtitan builds its modules: on meta first, then `reset_parameters`."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        activation: str  # a catalogue name or the path of a .toml file
        impl: str = "auto"

    def __init__(self, config: Config) -> None:
        act = _named(config.activation)
        super().__init__(act.spec, act.program, act.formula, impl=config.impl)


class GatedFeedForward(FeedForward):
    """w2(f(w1(x)) * w3(x)); a checkpoint has the stock keys and `act_fn`'s parameters."""

    @dataclass(kw_only=True, slots=True)
    class Config(FeedForward.Config):
        act_fn: TitanActivation.Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.act_fn = config.act_fn.build()

    def _activation(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return gated_product(self.act_fn, gate, up)

    # a FeedForward with a hook for the activation keeps its forward
    if not hasattr(FeedForward, "_activation"):

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.w2(self._activation(self.w1(x), self.w3(x)))


class PlainFeedForward(Module):
    """w2(f(w1(x))), backward keeping x and w1(x) alone."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        w1: Linear.Config
        w2: Linear.Config
        act_fn: TitanActivation.Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.w1 = config.w1.build()
        self.w2 = config.w2.build()
        self.act_fn = config.act_fn.build()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.w1(x)
        if traced(self.act_fn):
            return self.w2(again(self.act_fn, pre))
        hidden = self.act_fn(pre)
        if not worthwhile(hidden):
            return self.w2(hidden)
        with saving(Recomputed(hidden, lambda: self.act_fn.forward(pre))):
            return self.w2(hidden)


@override(target=FeedForward.Config, exact=True, description="another gate from integrand")
def gated(cfg: Any, *, activation: str = "silu", impl: str = "auto") -> Any:
    """The same matrices with another activation on the gate."""
    act_fn = _config(cfg, activation, impl)
    return derived(cfg, GatedFeedForward.Config, act_fn=act_fn)


@override(target=FeedForward.Config, exact=True, description="a plain block from integrand")
def plain(cfg: Any, *, activation: str = "xielu", impl: str = "auto", multiple: int = 1) -> Any:
    """A plain block 1.5 times as wide, to a `multiple`: the parameters of the gated one."""
    width = plain_width(cfg.w1.out_features, multiple)
    return derived(
        cfg,
        PlainFeedForward.Config,
        w1=replace(cfg.w1, out_features=width),
        w2=replace(cfg.w2, in_features=width),
        act_fn=_config(cfg, activation, impl),
    )


def _config(cfg: Any, name: str, impl: str) -> Any:
    made = TitanActivation.Config(activation=name, impl=impl)
    if cfg.w1.sharding_config is not None:
        # each tensor parallel rank sees its own hidden units: R, not I, has the gradients summed
        shared = dense_param_placement(tp=spmd.R)
        with torch.device("meta"):
            states = _named(name).module().state_dict()
        made.sharding_config = ShardingConfig(state_shardings=dict.fromkeys(states, shared))
    return made


def _named(name: str) -> Activation:
    return derive(read_spec(name)) if name.endswith(".toml") else activation(name)
