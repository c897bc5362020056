"""Feed-forward blocks, plain and gated, with the names transformers gives their tensors."""

import torch
from torch import nn

from integrand.nn.gated import MakesModule, gated_product, module_of, product
from integrand.nn.recompute import Recomputed, again, saving, traced, worthwhile


class MLP(nn.Module):
    """down_proj(act(up_proj(x))): the plain block, named as in transformers' Apertus.

    x and the result: (..., d_model); inside: (..., d_hidden). With `recompute`, backward keeps x
    and the pre-activation and computes act(up_proj(x)) again, bitwise the same.
    """

    def __init__(
        self,
        activation: MakesModule,
        d_model: int,
        d_hidden: int,
        bias: bool = False,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        impl: str = "auto",
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_hidden, bias=bias, dtype=dtype, device=device)
        self.down_proj = nn.Linear(d_hidden, d_model, bias=bias, dtype=dtype, device=device)
        # activation parameters stay fp32 whatever the dtype of the matrices
        self.act_fn = module_of(activation, device=device, impl=impl)
        self.recompute = recompute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.up_proj(x)  # (..., d_hidden)
        if self.recompute and traced(self.act_fn):
            return self.down_proj(again(self.act_fn, pre))
        hidden = self.act_fn(pre)
        if not (self.recompute and worthwhile(hidden)):
            return self.down_proj(hidden)
        recipe = Recomputed(hidden, lambda: self.act_fn.forward(pre))
        with saving(recipe):
            return self.down_proj(hidden)


class GatedMLP(nn.Module):
    """down_proj(act(gate_proj(x)) * up_proj(x)): the gated block, named as in Llama.

    x and the result: (..., d_model); inside: (..., d_hidden). With `activate_up` the activation
    is applied to both projections: dReLU for ReLU (arXiv:2406.05955). With `recompute`, backward
    keeps x and the two projections (with `activate_up` the activated one too) and computes the
    rest again, bitwise the same. Source: arXiv:2002.05202.
    """

    def __init__(
        self,
        activation: MakesModule,
        d_model: int,
        d_hidden: int,
        bias: bool = False,
        *,
        activate_up: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        impl: str = "auto",
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_hidden, bias=bias, dtype=dtype, device=device)
        self.up_proj = nn.Linear(d_model, d_hidden, bias=bias, dtype=dtype, device=device)
        self.down_proj = nn.Linear(d_hidden, d_model, bias=bias, dtype=dtype, device=device)
        self.act_fn = module_of(activation, device=device, impl=impl)
        self.activate_up = activate_up
        self.recompute = recompute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)  # (..., d_hidden) each
        if self.activate_up:
            up = self.act_fn(up)
        if self.recompute and traced(self.act_fn):
            return self.down_proj(again(lambda g, u: product(self.act_fn, g, u), gate, up))
        hidden = gated_product(self.act_fn, gate, up, self.recompute)
        if not (self.recompute and worthwhile(hidden)):
            return self.down_proj(hidden)
        recipe = Recomputed(hidden, lambda: product(self.act_fn, gate, up))
        with saving(recipe):
            return self.down_proj(hidden)
