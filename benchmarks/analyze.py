"""Seconds of a whole sparsity analysis: a decoder of 20 M parameters on 16,384 tokens.

    python benchmarks/analyze.py --json results/sparsity/analyze.json

The recipes' own shape at that size with random weights and random tokens: the work is that of a
trained model, or more, since the search for 1 % of perplexity finds none. `--form plain` is ReLU
squared.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import torch

import integrand as ig
from integrand.models.decoder import Decoder
from integrand.models.width import plain_width
from integrand.report.machine import environment
from integrand.sparsity import analyze
from integrand.train.compute import peak_memory
from integrand.train.files import write_json
from integrand.train.runs import command
from integrand.train.studies.recipes import size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="20M")
    parser.add_argument("--form", choices=("gated", "plain"), default="gated")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = size(given.size, "python-docs").model
    if given.form == "plain":
        width = plain_width(config.d_hidden)
        config = dataclasses.replace(config, gated=False, d_hidden=width)
    act = ig.activation("silu" if config.gated else "relu2")
    model = Decoder(config, act).initialise(0).eval()
    context = 128
    generator = torch.Generator().manual_seed(0)
    shape = (given.tokens // context, context + 1)
    rows = torch.randint(config.vocab_size, shape, generator=generator)
    start, spent = time.perf_counter(), time.process_time()
    found = analyze(model, rows)
    result = {
        "kind": "sparsity_analyze",
        "command": command(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "form": given.form,
        "tokens": found.tokens,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - spent,
        "peak_bytes": peak_memory(torch.device("cpu")),
        "model_runs": len(found.points),
        "environment": environment(),
    }
    print(f"{result['seconds']:.1f} s, {result['cpu_seconds']:.1f} s of CPU, "
          f"{result['peak_bytes'] / 2**20:.0f} MiB at most")  # fmt: skip
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, result)


if __name__ == "__main__":
    main()
