"""Training speed and memory of a Llama-shaped decoder: ours against transformers', one run.

    python benchmarks/train_step.py --json results/bench/train_step/summary.json

`--size 1.2M --rounds 2 --only ours_eager transformers_eager` is a quick look.

Same shape, gated SiLU, fp32, one step = forward, cross-entropy in fp32, backward, clip, fused
AdamW; eager and under torch.compile (model and loss), alternating. Saved bytes are what autograd
keeps between forward and backward, less parameters; the peak is of a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import integrand as ig
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.report.machine import environment
from integrand.timing import paired, ratio
from integrand.train.compute import flops_per_token, peak_flops, peak_memory
from integrand.train.files import write_json
from integrand.train.loop import compiled_loss, summed_loss
from integrand.train.runs import command

SIZES = {
    "1.2M": (
        DecoderConfig(
            vocab_size=1024, d_model=128, d_hidden=320, layers=6, heads=4, kv_heads=4, gated=True,
            tied=True,
        ),
        128,
    ),
    "6M": (
        DecoderConfig(
            vocab_size=4096, d_model=256, d_hidden=672, layers=6, heads=4, kv_heads=4, gated=True,
            tied=True,
        ),
        256,
    ),
}  # fmt: skip
BATCH = 16
KINDS = ("ours_eager", "transformers_eager", "ours_compiled", "transformers_compiled")


class Logits(nn.Module):
    """A transformers model called as ours: token ids in, logits out, no key/value cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits


def build(kind: str, shape: DecoderConfig, context: int) -> nn.Module:
    ours = Decoder(shape, ig.activation("silu")).initialise(0)
    if kind.startswith("ours"):
        return ours
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            rms_norm_eps=shape.norm_eps,
            tie_word_embeddings=shape.tied,
            max_position_embeddings=context,
            attn_implementation="sdpa",
        )
    )
    missing = theirs.load_state_dict(ours.state_dict(), strict=True)
    assert not missing.missing_keys
    return Logits(theirs)


def stepping(kind: str, shape: DecoderConfig, batch: Tensor) -> Callable[[], float]:
    model = build(kind, shape, batch.shape[1] - 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    loss_of: Any = compiled_loss() if kind.endswith("compiled") else summed_loss
    labels = batch[:, 1:]

    def step() -> float:
        loss = loss_of(model, batch[:, :-1], labels) / labels.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def saved_bytes(kind: str, shape: DecoderConfig, batch: Tensor) -> int:
    """Bytes of distinct storages that an eager forward keeps for backward, less parameters."""
    model = build(kind, shape, batch.shape[1] - 1)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address would be used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        summed_loss(model, batch[:, :-1], batch[:, 1:])
    return sum(kept.values())


def batch_of(shape: DecoderConfig, context: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(shape.vocab_size, (BATCH, context + 1), generator=generator)


def peak_bytes(size: str, kind: str) -> int:
    """Peak resident memory of three steps in a process of their own."""
    alone = [sys.executable, __file__, "--size", size, "--only", kind, "--peak"]
    done = subprocess.run(alone, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(size: str, kinds: list[str], rounds: int) -> list[dict[str, Any]]:
    shape, context = SIZES[size]
    batch = batch_of(shape, context)
    steps = {kind: stepping(kind, shape, batch) for kind in kinds}
    # the first loss is that of the same weights on the same tokens: both do the same work
    losses = {kind: step() for kind, step in steps.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-4, losses
    seconds = paired(
        steps, rounds, 3,
        progress=lambda done, all: print(f"{size}: round {done} of {all}", file=sys.stderr),
    )  # fmt: skip
    tokens = BATCH * context
    peak, source = peak_flops(torch.device("cpu"))
    rows = []
    for kind in kinds:
        median = statistics.median(seconds[kind])
        row: dict[str, Any] = {
            "size": size,
            "name": kind,
            "median_s": median,
            "tokens_per_s": tokens / median,
            "mfu": tokens / median * flops_per_token(shape, context) / peak,
            "peak_flops": peak,
            "peak_flops_source": source,
            "peak_bytes": peak_bytes(size, kind),
        }
        if kind.endswith("eager"):
            row["saved_bytes_per_token"] = saved_bytes(kind, shape, batch) / tokens
        for other in kinds:
            middle, low, high = ratio(seconds[kind], seconds[other])
            row[f"ratio_{other}"], row[f"spread_{other}"] = middle, [low, high]
        rows.append(row)
        saved = row.get("saved_bytes_per_token")
        kept = f"  {saved:8.0f} bytes saved per token" if saved else ""
        print(
            f"{size}  {kind:<22}{row['tokens_per_s']:9.0f} tokens/s  {row['mfu']:.0%} of peak  "
            f"{row['peak_bytes'] / 2**20:6.0f} MiB{kept}"
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, action="append", help="default: both")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", action="store_true", help="print the peak memory of three steps")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = given.size or list(SIZES)
    if given.peak:
        shape, context = SIZES[sizes[0]]
        step = stepping(given.only[0], shape, batch_of(shape, context))
        for _ in range(3):
            step()
        print(peak_memory(torch.device("cpu")))
        return 0
    rows = [row for size in sizes for row in measure(size, given.only, given.rounds)]
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        shapes = {name: dataclasses.asdict(shape) for name, (shape, _) in SIZES.items()}
        write_json(given.json, {
            "kind": "train_step", "command": command(), "environment": environment(),
            "rounds": given.rounds, "batch": BATCH, "models": shapes, "rows": rows,
        })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
