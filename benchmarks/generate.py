"""Tokens per second of generation before and after `accelerate`, in transformers.

    python benchmarks/generate.py --run RUN_FOLDER --json results/sparsity/generate.json

Two models: the run of a trained decoder, exported, where one is given; and one that is not trained,
large enough that its weights do not fit in a cache, whose biases make 90 % of neurons inactive. The
same tokens must come out (greedy, fp32), or nothing is timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from integrand.models.export import export
from integrand.report.machine import environment
from integrand.sparsity import accelerate, feed_forwards
from integrand.sparsity.roofline import roofline
from integrand.train.files import write_json
from integrand.train.runs import command, load_run


def trained(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as place:
        export(load_run(folder), place, context=1024)
        return AutoModelForCausalLM.from_pretrained(place).eval()


def large() -> Any:
    """8 layers of 1024 -> 8192 -> 1024, ReLU^2, random; 1.28 sigma of bias: 10 % active."""
    from transformers import ArceeConfig, ArceeForCausalLM

    torch.manual_seed(0)
    model = ArceeForCausalLM(ArceeConfig(
        vocab_size=4096, hidden_size=1024, intermediate_size=8192, num_hidden_layers=8,
        num_attention_heads=16, num_key_value_heads=4, hidden_act="relu2", mlp_bias=True,
        max_position_embeddings=1024,
    )).eval()  # fmt: skip
    for block in feed_forwards(model):
        up: Any = block.inner[0]
        with torch.no_grad():
            nn.init.normal_(up.weight, std=1024**-0.5)
            up.bias.fill_(-1.2816)
    return model


def generated(model: Any, tokens: int) -> tuple[float, Tensor]:
    """(tokens per second after the prompt's, the tokens)."""
    prompt = torch.arange(1, 9)[None]
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    start = time.perf_counter()
    out = model.generate(prompt, min_new_tokens=tokens, max_new_tokens=tokens, **options)
    return tokens / (time.perf_counter() - start), out


def active(model: Any) -> float:
    """The share of active neurons over some tokens."""
    shares: list[float] = []
    hooks = [
        b.down.register_forward_pre_hook(
            lambda _, given: shares.append(float((given[0] != 0).float().mean()))
        )
        for b in feed_forwards(model)
    ]
    generated(model, 16)
    for hook in hooks:
        hook.remove()
    return statistics.mean(shares)


def measure(name: str, model: Any, tokens: int, rounds: int) -> dict[str, Any]:
    share = active(model)
    bound = roofline(model, share)
    rates: dict[str, list[float]] = {"dense": [], "accelerated": []}
    _, expected = generated(model, tokens)
    left: dict[str, str] = {}
    for done in range(rounds):
        for kind in list(rates)[:: 1 if done % 2 == 0 else -1]:
            handle = accelerate(model) if kind == "accelerated" else None
            rate, out = generated(model, tokens)
            if handle:
                left = handle.left
                handle.undo()
            assert torch.equal(out, expected), "other tokens came out"
            rates[kind].append(rate)
    row = {
        "model": name, "parameters": sum(p.numel() for p in model.parameters()),
        "active": share, "feed_forward_share_of_bytes": bound.share, "ceiling": bound.model,
        "left_dense": len(left), "tokens": tokens,
        **{f"tokens_per_s {k}": statistics.median(v) for k, v in rates.items()},
        "speedup": statistics.median(
            a / b for a, b in zip(rates["accelerated"], rates["dense"], strict=True)
        ),
    }  # fmt: skip
    print(f"{name}: {bound}")
    print(", ".join(f"{k} {row[f'tokens_per_s {k}']:.1f} tokens/s" for k in rates), end="; ")
    print(f"{row['speedup']:.2f} times; {len(left)} blocks left dense")
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a trained decoder")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with torch.no_grad():
        rows = [measure("large, not trained", large(), given.tokens, given.rounds)]
        if given.run:
            rows.append(measure(given.run.name, trained(given.run), given.tokens, given.rounds))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"kind": "sparsity_generate", "command": command(), "environment": environment()}
        write_json(given.json, {**found, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
