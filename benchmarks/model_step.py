"""One optimiser step of a small decoder in Apertus' shape: xIELU, its plain formula, SwiGLU.

    python benchmarks/model_step.py --json results/bench/model_step/summary.json

`--layers 1 --batch 1 --context 32 --only xielu swiglu` is a quick look.

Equal parameters (a plain block is 1.5 times as wide as a gated one), equal shapes elsewhere, eager
and under torch.compile, alternating in one run. The plain formulas keep what autograd keeps of
them; integrand's blocks recompute the activation's output in backward.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import integrand as ig
from integrand.models.decoder import Decoder, DecoderConfig
from integrand.models.width import plain_width
from integrand.report.machine import environment
from integrand.timing import paired, ratio
from integrand.train.config import DataConfig, TrainConfig
from integrand.train.files import write_json
from integrand.train.loop import one_step
from integrand.train.runs import command

GATED = DecoderConfig(
    vocab_size=2048, d_model=384, d_hidden=1344, layers=4, heads=6, kv_heads=2, gated=True,
    layout="apertus", qk_norm=True, tied=True,
)  # fmt: skip
PLAIN = dataclasses.replace(GATED, gated=False, d_hidden=plain_width(GATED.d_hidden))
CLAIMS = (
    ("xielu", "swiglu"),
    ("xielu_compiled", "operations_compiled"),
    ("xielu_compiled", "transformers_compiled"),
)


class PlainOps(nn.Module):
    """xIELU as autograd operations on fp32 parameters, as the paper writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.tensor([0.8]).expm1().log())
        self.alpha_n = nn.Parameter(torch.tensor([0.3]).expm1().log())

    def forward(self, x: Tensor) -> Tensor:
        alpha_p, alpha_n = F.softplus(self.alpha_p), 0.5 + F.softplus(self.alpha_n)
        return torch.where(
            x > 0, alpha_p * x * x + 0.5 * x, alpha_n * (torch.expm1(x) - x) + 0.5 * x
        )


class Made:
    """What a decoder takes for an activation: something that makes modules."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make

    def module(self, **options: Any) -> nn.Module:
        return self.make()


def transformers_xielu() -> nn.Module:
    from transformers.activations import XIELUActivation

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return XIELUActivation(dtype=torch.float32)


def variants() -> dict[str, tuple[DecoderConfig, Any]]:
    found: dict[str, tuple[DecoderConfig, Any]] = {
        "xielu": (PLAIN, ig.activation("xielu")),
        "swiglu": (GATED, Made(nn.SiLU)),
        "swiglu_integrand": (GATED, ig.activation("silu")),
        "operations": (PLAIN, Made(PlainOps)),
    }
    try:
        transformers_xielu()
        found["transformers"] = (PLAIN, Made(transformers_xielu))
    except ImportError:
        print("transformers is not installed: without its module", file=sys.stderr)
    return found


def stepping(
    config: DecoderConfig, activation: Any, compiled: bool, batch: Tensor
) -> tuple[Callable[[], Any], int]:
    model = Decoder(config, activation).initialise(0)
    if isinstance(activation, Made):
        for layer in model.model.layers:
            layer.mlp.recompute = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run: Any = torch.compile(model) if compiled else model
    count = sum(p.numel() for p in model.parameters())
    data = DataConfig(vocab_size=config.vocab_size)
    step = TrainConfig(model=config, activation="as built", data=data)
    return lambda: one_step(run, [optimizer], batch, step, nullcontext()), count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--layers", type=int, default=GATED.layers)
    parser.add_argument("--only", nargs="*", help="such as xielu, xielu_compiled; default: all")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    shape = (given.batch, given.context + 1)
    batch = torch.randint(GATED.vocab_size, shape, generator=generator)
    steps: dict[str, Callable[[], Any]] = {}
    about: dict[str, dict[str, Any]] = {}
    for compiled in (False, True):
        for name, (config, activation) in variants().items():
            key = f"{name}_compiled" if compiled else name
            if given.only and key not in given.only:
                continue
            config = dataclasses.replace(config, layers=given.layers)
            steps[key], count = stepping(config, activation, compiled, batch)
            about[key] = {"name": name, "compiled": compiled, "parameters": count}
    seconds = paired(
        steps, given.rounds, 2,
        progress=lambda done, all: print(f"round {done} of {all}", file=sys.stderr),
    )  # fmt: skip
    rows = []
    for key, row in about.items():
        row |= {"dtype": "float32", "tokens": given.batch * given.context}
        row["median_s"] = statistics.median(seconds[key])
        for other in steps:
            middle, low, high = ratio(seconds[key], seconds[other])
            row[f"ratio_{other}"], row[f"spread_{other}"] = middle, [low, high]
        rows.append(row)
        parts = [f"{row['median_s'] * 1e3:8.1f} ms"]
        parts += [f"{row[f'ratio_{k}']:.2f} of {k}" for k in steps if k != key]
        print(f"{key:<26}" + "  ".join(parts))
    claims = {
        f"{a} takes no longer than {b}": about[a][f"ratio_{b}"] <= 1
        for a, b in CLAIMS
        if a in steps and b in steps
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'does not hold'}: {claim}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {
            "kind": "model_step", "command": command(), "environment": environment(),
            "rounds": given.rounds, "model": dataclasses.asdict(PLAIN), "rows": rows,
            "claims": claims,
        })  # fmt: skip
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
