"""A decoder in one file, in the shapes and under the tensor names of Llama and Apertus.

Pre-norm RMSNorm, rotary positions, grouped-query attention, optional QK-norm, a gated or a plain
feed-forward block with any activation, tied or untied embeddings, no biases. Checkpoints of
transformers' LlamaForCausalLM and ApertusForCausalLM load by name.

Dimensions: B batch, T positions, D d_model, F d_hidden, H heads, K key/value heads, E head width,
V vocabulary.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integrand.errors import Error
from integrand.models.field_ranges import AT_LEAST_1, Ranges, check_ranges
from integrand.nn.gated import MakesModule
from integrand.nn.groups import activation_modules
from integrand.nn.mlp import MLP, GatedMLP


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3Rope:
    """Frequency scaling for long contexts, `rope_type: llama3` in transformers."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Everything that decides a decoder's shape, except its activation."""

    vocab_size: int
    d_model: int
    d_hidden: int  # width of the feed-forward block
    layers: int
    heads: int
    kv_heads: int
    gated: bool
    activate_up: bool = False  # of a gated block: the activation on both projections, as in dReLU
    layout: Literal["llama", "apertus"] = "llama"  # names of the two norms of a layer
    qk_norm: bool = False  # RMSNorm over the head width of q and k, before the rotation
    tied: bool = False  # the output matrix is the embedding
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Rope | None = None
    init_std: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise Error(
                "d_model must be an even multiple of heads, got "
                f"d_model={self.d_model}, heads={self.heads}; choose e.g. d_model={64 * self.heads}"
            )
        if self.heads % self.kv_heads:
            raise Error(
                f"kv_heads must divide heads, got heads={self.heads}, kv_heads={self.kv_heads}; "
                f"choose kv_heads={self.heads} for plain multi-head attention"
            )
        if self.activate_up and not self.gated:
            raise Error("activate_up belongs to a gated block, got gated=False; leave it out")
        if self.layout not in NORM_NAMES:
            raise Error(
                f"layout must be one of {', '.join(NORM_NAMES)}, got {self.layout!r}; "
                "it only names the norms"
            )


RANGES: Ranges = dict.fromkeys(
    ("vocab_size", "d_model", "d_hidden", "layers", "heads", "kv_heads"), AT_LEAST_1
)
NORM_NAMES = {
    "llama": ("input_layernorm", "post_attention_layernorm"),
    "apertus": ("attention_layernorm", "feedforward_layernorm"),
}


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps), the mean in fp32 over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


def rotation(config: DecoderConfig, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles at `positions` (T), (T, E) each, in like's dtype.

    Computed in fp32. Positions (B, 1, T), a row's own, give (B, 1, T, E).
    """
    scaling = dataclasses.astuple(config.rope_scaling) if config.rope_scaling else ()
    given = positions, config.d_model // config.heads, config.rope_theta, scaling, like.dtype
    # Inductor would compute the angles again in every layer, for every head and sequence
    compiling = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    return _angles_once(*given) if compiling else _angles(*given)


def _angles(
    positions: Tensor, width: int, theta: float, scaling: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    frequency = theta**-exponent  # (E/2,)
    if scaling:
        factor, low, high, context = scaling
        turns = context * frequency / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = share * frequency + (1 - share) * frequency / factor
    angle = positions.float().unsqueeze(-1) * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


@torch.library.custom_op("integrand::angles", mutates_args=())
def _angles_once(
    positions: Tensor, width: int, theta: float, scaling: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return _angles(positions, width, theta, scaling, dtype)


@_angles_once.register_fake
def _(
    positions: Tensor, width: int, theta: float, scaling: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    shape = *positions.shape, width
    return positions.new_empty(shape, dtype=dtype), positions.new_empty(shape, dtype=dtype)


def apart(documents_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(positions (B, 1, T) counted from each document's start, mask (B, 1, T, T) of who sees whom).

    A token sees itself and what comes before it in its document, and no other document.
    """
    place_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1) != 0
    start_BT = (place_T * starts_BT).cummax(dim=1).values
    same_BTT = documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)
    earlier_TT = place_T.unsqueeze(1) >= place_T
    return (place_T - start_BT).unsqueeze(1), (same_BTT & earlier_TT).unsqueeze(1)


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of transformers (arXiv:2104.09864)."""
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat((-second, first), dim=-1) * sin_TE


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.d_model // config.heads
        self.groups = config.heads // config.kv_heads
        self.width = width
        self.q_proj = nn.Linear(config.d_model, config.heads * width, bias=False)
        self.k_proj = nn.Linear(config.d_model, config.kv_heads * width, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.kv_heads * width, bias=False)
        self.o_proj = nn.Linear(config.heads * width, config.d_model, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(width, config.norm_eps)
            self.k_norm = RMSNorm(width, config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BHTE = self.q_proj(x_BTD).view(B, T, -1, self.width).transpose(1, 2)
        k_BKTE = self.k_proj(x_BTD).view(B, T, -1, self.width).transpose(1, 2)
        v_BKTE = self.v_proj(x_BTD).view(B, T, -1, self.width).transpose(1, 2)
        if self.qk_norm:
            q_BHTE, k_BKTE = self.q_norm(q_BHTE), self.k_norm(k_BKTE)
        q_BHTE, k_BKTE = rotate(q_BHTE, cos_TE, sin_TE), rotate(k_BKTE, cos_TE, sin_TE)
        # repeated here because enable_gqa falls back to an unfused path on CPU
        k_BHTE = k_BKTE.repeat_interleave(self.groups, 1) if self.groups > 1 else k_BKTE
        v_BHTE = v_BKTE.repeat_interleave(self.groups, 1) if self.groups > 1 else v_BKTE
        out_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BHTE, v_BHTE, attn_mask=mask, is_causal=mask is None
        )
        return self.o_proj(out_BHTE.transpose(1, 2).reshape(B, T, -1))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, activation: MakesModule, impl: str) -> None:
        super().__init__()
        self.names = NORM_NAMES[config.layout]
        self.self_attn = Attention(config)
        shape = activation, config.d_model, config.d_hidden
        if config.gated:
            self.mlp = GatedMLP(*shape, activate_up=config.activate_up, impl=impl)
        else:
            self.mlp = MLP(*shape, impl=impl)
        for name in self.names:
            self.add_module(name, RMSNorm(config.d_model, config.norm_eps))

    def forward(
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        before_attention, before_mlp = (self.get_submodule(name) for name in self.names)
        x_BTD = x_BTD + self.self_attn(before_attention(x_BTD), cos_TE, sin_TE, mask)
        return x_BTD + self.mlp(before_mlp(x_BTD))


class Trunk(nn.Module):
    """Token ids to normalised hidden states; the part transformers calls `model`."""

    def __init__(self, config: DecoderConfig, activation: MakesModule, impl: str) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config, activation, impl) for _ in range(config.layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        x_BTD = self.embed_tokens(tokens_BT)
        positions, mask = torch.arange(tokens_BT.shape[1], device=tokens_BT.device), None
        if documents_BT is not None:
            positions, mask = apart(documents_BT)
        cos_TE, sin_TE = rotation(self.config, positions, x_BTD)
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_TE, sin_TE, mask)
        return self.norm(x_BTD)


class Decoder(nn.Module):
    """Token ids (B, T) to next-token logits (B, T, V).

    `activation` is an Activation (catalogue or derived) and serves every layer, each with
    parameters of its own. `initialise(seed)` sets the weights; construction leaves torch's. With
    documents (B, T), the number of each token's document in its row, attention and positions stay
    within a document: rows packed from several give the logits of each alone.
    """

    def __init__(self, config: DecoderConfig, activation: MakesModule, impl: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config, activation, impl)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        return self.lm_head(self.model(tokens_BT, documents_BT))

    def initialise(self, seed: int) -> "Decoder":
        """Norms 1; matrices N(0, init_std^2), those that write to the residual / sqrt(2 layers).

        Each tensor draws from a generator of its own, seeded by (seed, name): a tensor that two
        variants share by name and shape starts with the same bits in both, on any device.
        Activation parameters keep their declared initial values.
        """
        declared = {id(p) for m in activation_modules(self).values() for p in m.parameters()}
        residual_std = self.config.init_std / math.sqrt(2 * self.config.layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if id(parameter) in declared:
                    continue
                if parameter.ndim < 2:
                    parameter.fill_(1.0)
                    continue
                digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
                writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = residual_std if writes_residual else self.config.init_std
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        return self
