"""Thresholds per channel: one file format for every method, and the model run with them.

What a threshold is compared with decides its section:

    hidden/BLOCK  (H,)  |h_i|, what enters the map back: CETT
    gate/BLOCK    (H,)  |g_i|, the activation of the gate, in a plain block h itself: CATS, CHESS
    input/LINEAR  (D,)  |x_j|, what enters any linear map: TEAL, WINA

A channel is left out where its value is at most its threshold; a NaN never is. Every published
score is one of these: |g_i| m_i > tau is |g_i| > tau / m_i.

Dimensions: D inputs of a linear map, H d_hidden.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from integrand.errors import DataError
from integrand.sparsity.feed_forward import FeedForward, feed_forwards, matrix
from integrand.sparsity.frozen import frozen
from integrand.sparsity.masking import Rule, leaving_out
from integrand.sparsity.passes import mean_loss, token_rows

FORMAT = "integrand thresholds 1"
SECTIONS = ("hidden", "gate", "input")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True, repr=False)
class Thresholds:
    """`values` by SECTION/NAME, in fp32; how they came about; the sha256 of the model's tensors."""

    method: str
    target: float
    model: str
    values: Mapping[str, Tensor]

    def __repr__(self) -> str:
        head = f"thresholds by {self.method}, target {self.target:g}, of model {self.model[:8]}"
        each = (f"{n}: {len(v)} channels, median {v.median():.3g}" for n, v in self.values.items())
        return "\n".join([head, *each])

    def save(self, path: Path | str) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        metadata = {"format": FORMAT, "method": self.method, "target": repr(self.target)}
        tensors = {name: value.contiguous() for name, value in self.values.items()}
        save_file(tensors, path, metadata={**metadata, "model": self.model})


def load_thresholds(path: Path | str, model: nn.Module) -> Thresholds:
    """The thresholds of a file, checked to be those of `model`.

    Raises:
        DataError: no such file, another format, another model, or values out of range.
    """
    metadata, values = read_tensors(path, FORMAT, ("method", "target", "model"))
    target = number(path, metadata, "target")
    found = Thresholds(metadata["method"], target, metadata["model"], values)
    _check(found, model)
    return found


def read_tensors(
    path: Path | str, kind: str, keys: Iterable[str]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file of that format.

    Raises:
        DataError: no such file, another format, or metadata that lacks one of `keys`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} must be a safetensors file, got: {error}") from None
    if metadata.get("format") != kind or not set(keys) <= metadata.keys():
        raise DataError(
            f"{path} must hold {kind[:-2]} in format '{kind}', got the metadata {metadata}; make "
            "it anew"
        )
    return metadata, tensors


def number(path: Path | str, metadata: Mapping[str, str], key: str) -> float:
    """A value of the metadata as a number. Raises `DataError` where it is none."""
    try:
        return float(metadata[key])
    except ValueError:
        raise DataError(
            f"{path} must hold a number as {key}, got {metadata[key]!r}; make it anew"
        ) from None


def _check(thresholds: Thresholds, model: nn.Module) -> None:
    if (own := fingerprint(model)) != thresholds.model:
        raise DataError(
            "thresholds must be those of this model, got the ones of the model with sha256 "
            f"{thresholds.model[:12]} for one with {own[:12]}; calibrate them anew"
        )
    widths = {f"input/{name}": width for name, width in linear_widths(model).items()}
    for block in feed_forwards(model):
        widths |= {f"{section}/{block.name}": block.d_hidden for section in SECTIONS[:2]}
    for name, value in thresholds.values.items():
        if name not in widths:
            raise DataError(
                f"thresholds must be named {', '.join(s + '/NAME' for s in SECTIONS)} with a block "
                f"or a linear map of this model, got '{name}'; calibrate them anew"
            )
        check_values(name, value, widths[name])


def check_values(name: str, value: Any, width: int) -> None:
    """Raises `DataError` where a value of thresholds is not `width` floats of at least 0."""
    if not isinstance(value, Tensor) or value.dtype not in DTYPES or value.shape != (width,):
        got = type(value).__name__
        if isinstance(value, Tensor):
            got = f"the shape {tuple(value.shape)} in {str(value.dtype).removeprefix('torch.')}"
        raise DataError(
            f"thresholds '{name}' must be a tensor of {width} numbers in fp16, bf16, fp32 or fp64, "
            f"got {got}; calibrate them anew"
        )
    if not bool((value >= 0).all()):
        raise DataError(
            f"thresholds '{name}' must be at least 0, got {float(value.min())}; calibrate them anew"
        )


def linear_widths(model: nn.Module) -> dict[str, int]:
    """The number of inputs of each linear map."""
    return {
        name: matrix(module).weight.shape[1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or hasattr(module, "nf")
    }


def fingerprint(model: nn.Module) -> str:
    """sha256 of the names, types, shapes and bytes of all tensors of a checkpoint of `model`."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def applying(model: nn.Module, thresholds: Thresholds) -> Iterator[None]:
    """Within: `model` computes without what lies at or below its thresholds.

    Raises:
        DataError: the thresholds are not those of this model.
    """
    _check(thresholds, model)
    values = {n: v.to(next(model.parameters()).device) for n, v in thresholds.values.items()}
    blocks = feed_forwards(model)
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        inner = stack.enter_context(gates(blocks))
        rules = []
        for block, gate in zip(blocks, inner, strict=True):
            hidden, first = (values.get(f"{s}/{block.name}") for s in SECTIONS[:2])
            rules.append(_rule(hidden, first, gate))
        stack.enter_context(leaving_out(blocks, rules))
        for name, value in values.items():
            section, _, place = name.partition("/")
            if section == "input":
                hook = modules[place].register_forward_pre_hook(_mask(value))
                stack.callback(hook.remove)
        yield


def _rule(hidden: Tensor | None, first: Tensor | None, gate: Callable[[], Gate]) -> Rule:
    def rule(h: Tensor) -> Tensor:
        out = torch.zeros_like(h, dtype=torch.bool) if hidden is None else small(h, hidden)
        return out if first is None else out | small(gate()[0], first)

    return rule


def _mask(threshold: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda _, given: (given[0].masked_fill(small(given[0], threshold), 0), *given[1:])


def small(x: Tensor, threshold: Tensor) -> Tensor:
    return x.detach().float().abs() <= threshold


Gate = tuple[Tensor, Tensor | None]  # the activation of the gate, and what it is multiplied with


@contextmanager
def gates(blocks: Iterable[FeedForward]) -> Iterator[list[Callable[[], Gate]]]:
    """Within: for each block a function that gives the `Gate` of its current call.

    (act(gate x), up x) for a gated block, (act(gate x), act(up x)) for dReLU, (act(up x), None)
    for a plain one, each (..., H).
    """
    with ExitStack() as stack:
        given: dict[nn.Module, Tensor] = {}

        def note(module: nn.Module, _: Any, output: Tensor) -> None:
            given[module] = output.detach()

        def of(block: FeedForward) -> Gate:
            values = [given[m] for m in block.inner]
            if block.form != "plain" and len(values) == 1:
                values = list(values[0].chunk(2, dim=-1))
            if block.form == "plain":
                return block.act(values[0]), None
            return block.act(values[0]), block.act(values[1]) if block.form == "both" else values[1]

        blocks = list(blocks)
        for block in blocks:
            for module in block.inner:
                stack.callback(module.register_forward_hook(note).remove)
        yield [lambda block=block: of(block) for block in blocks]


@dataclass(frozen=True, slots=True)
class Price:
    """What thresholds reach and cost on some text; perplexities are e to the nats per token."""

    sparsity: dict[str, float]  # share of zeros among what enters each map that is masked
    perplexity: float
    perplexity_sparse: float

    @property
    def rise(self) -> float:
        return self.perplexity_sparse / self.perplexity - 1


def price(
    model: nn.Module,
    thresholds: Thresholds,
    data: Tensor | Iterable[Tensor],
    separator: int | None = None,
) -> Price:
    """`model` on token ids (N, T + 1) without and with its thresholds.

    Raises:
        DataError: no token ids of this model's vocabulary, or thresholds of another model.
    """
    rows = token_rows(data, model)
    blocks = {block.name: block for block in feed_forwards(model)}
    modules = dict(model.named_modules())
    places = {n: n.partition("/")[2] for n in thresholds.values}
    watched = {n: blocks[p].down if p in blocks else modules[p] for n, p in places.items()}
    counts = {name: [0, 0] for name in watched}

    def count(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            counts[name][0] += given[0].numel() - int(given[0].count_nonzero())
            counts[name][1] += given[0].numel()

        return hook

    with frozen(model), ExitStack() as stack:
        dense = _mean(*mean_loss(model, rows, separator))
        stack.enter_context(applying(model, thresholds))
        for name, module in watched.items():
            stack.callback(module.register_forward_pre_hook(count(name)).remove)
        sparse = _mean(*mean_loss(model, rows, separator))
    shares = {name: zeros / elements for name, (zeros, elements) in counts.items()}
    return Price(shares, math.exp(dense), math.exp(min(700.0, sparse)))


def _mean(nats: Tensor, counted: Tensor) -> float:
    return float(nats.sum() / counted.sum().clamp_min(1))
