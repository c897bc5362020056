"""One feed-forward block at batch 1, skipping and dense, and where skipping stops to pay.

    python benchmarks/decode.py --json results/sparsity/decode.json

`--only gated-bf16` is one case; `--grid` is the sweep over sparsity and batch. Layers of their own
weights in turn, at least 1 GB of them (a quarter in the sweep from batch 16 on); all candidates in
every round, in alternating order. A neuron fires by the bias of its gate, with a frequency of its
own (log-normal, so that some are hot), independently from token to token. In dReLU (`both`) the
sparsity is that of the gate, and half of its neurons stay active in up, as one with a bias of 0 is.
Nothing is timed whose output failed its bound.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import integrand as ig
from integrand.kernels.c_build import library
from integrand.nn.mlp import MLP, GatedMLP
from integrand.report.machine import environment
from integrand.sparsity import accelerate
from integrand.sparsity.break_even import BATCHES, Step
from integrand.sparsity.roofline import ceiling
from integrand.sparsity.skipping import RowSkip
from integrand.timing import ratio
from integrand.train.files import write_json
from integrand.train.runs import command

CASES = {
    "gated-bf16": ("gated", 5632, torch.bfloat16, 16),
    "plain-bf16": ("plain", 8192, torch.bfloat16, 16),
    "both-bf16": ("both", 5632, torch.bfloat16, 16),
    "gated-fp32": ("gated", 5632, torch.float32, 8),
    "plain-fp32": ("plain", 8192, torch.float32, 8),
}
D = 2048
LEVELS = (0.5, 0.8, 0.9, 0.95)
GRID = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
READ = """#include <stdint.h>
uint64_t read_all(const uint64_t *p, int64_t n, int threads) {
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; i++) sum += p[i];
  return sum;
}
"""


def reading(model: nn.Sequential) -> Callable[[int, Tensor], None]:
    """A plain sum over the matrices of block k: the bandwidth, measured in the same rounds."""
    read, threads = library(READ).read_all, torch.get_num_threads()
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int], ctypes.c_uint64
    found = [[(p.data_ptr(), p.nbytes // 8) for p in b.parameters() if p.ndim > 1] for b in model]

    def sums(k: int, x: Tensor) -> None:
        for address, words in found[k]:
            read(address, words, threads)

    return sums


def layers(form: str, d_hidden: int, dtype: torch.dtype, count: int) -> nn.Sequential:
    """Blocks with weights N(0, 1/D): the gate of a token N(0, 1) is N(0, 1)."""
    act = ig.activation("relu2" if form == "plain" else "relu")
    made = []
    for _ in range(count):
        with torch.device("meta"):
            shape = (act, D, d_hidden, True)
            if form == "plain":
                block = MLP(*shape, dtype=dtype)
            else:
                block = GatedMLP(*shape, activate_up=form == "both", dtype=dtype)
        block.to_empty(device="cpu")
        for p in block.parameters():
            nn.init.zeros_(p) if p.ndim == 1 else nn.init.normal_(p, std=D**-0.5)
        made.append(block)
    return nn.Sequential(*made).eval().requires_grad_(False)


def fire(models: list[nn.Sequential], sparsity: float) -> None:
    """Set the biases so that a share of neurons is active, each with a frequency of its own."""
    generator = torch.Generator().manual_seed(1)
    for blocks in zip(*models, strict=True):
        first = blocks[0].gate_proj if hasattr(blocks[0], "gate_proj") else blocks[0].up_proj
        rates = torch.randn(first.out_features, generator=generator).exp()
        low, high = 0.0, 1e6
        for _ in range(60):
            scale = (low + high) / 2
            share = float((rates * scale).clamp_max(1).mean())
            low, high = (scale, high) if share < 1 - sparsity else (low, scale)
        rates = (rates * high).clamp(1e-6, 1 - 1e-6).double()
        bias = torch.special.ndtri(rates) if sparsity else torch.full_like(rates, 8.0)
        for block in blocks:
            inner = block.gate_proj if hasattr(block, "gate_proj") else block.up_proj
            inner.bias.copy_(bias)


def by_mv(block: Any, x: Tensor) -> Tensor:
    """The dense block by torch.mv."""
    v = x[0]
    up = torch.mv(block.up_proj.weight, v) + block.up_proj.bias
    if hasattr(block, "gate_proj"):
        up = block.act_fn(up) if block.activate_up else up
        up = block.act_fn(torch.mv(block.gate_proj.weight, v) + block.gate_proj.bias) * up
    else:
        up = block.act_fn(up)
    return (torch.mv(block.down_proj.weight, up) + block.down_proj.bias)[None]


def candidates(dense: nn.Sequential, fast: nn.Sequential, most: int) -> dict[str, Any]:
    """Every way to compute block k of a token x; finding the block takes none of the time."""
    skips: list[RowSkip] = [block.forward for block in fast]
    theirs, ours = list(dense), list(fast)
    own, skip = Step(64, True, 0), Step(64, True, most)

    def feeding(step: Step) -> Callable[[int, Tensor], Tensor]:
        return lambda k, x: skips[k].feed(x, skips[k].known(), step)

    return {
        "nn.Linear": lambda k, x: theirs[k](x),
        "torch.mv": lambda k, x: by_mv(theirs[k], x),
        "own dense": feeding(own),
        "skipping": feeding(skip),
        "accelerated": lambda k, x: ours[k](x),
    }


def passes(calls: dict[str, Any], xs: list[Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds per layer of each candidate in every round: all layers in turn, cold."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(rounds + 1):
        for name in list(calls)[:: 1 if done % 2 == 0 else -1]:
            start = time.perf_counter()
            for k, x in enumerate(xs):
                calls[name](k, x)
            seconds[name].append((time.perf_counter() - start) / len(xs))
    # the first round warms up
    return {name: values[1:] for name, values in seconds.items()}


def agree(calls: dict[str, Any], xs: list[Tensor]) -> float:
    """The largest difference from nn.Linear, in units of the dtype's eps and the largest output.

    Each path rounds h and y, and the sums before them, once or twice: a few of these units.
    """
    worst = 0.0
    for k, x in enumerate(xs[:2]):
        expected = calls["nn.Linear"](k, x).double()
        unit = torch.finfo(x.dtype).eps * float(expected.abs().max())
        for call in calls.values():
            worst = max(worst, float((call(k, x).double() - expected).abs().max()) / unit)
    # fp32: sums of thousands of terms, each off by up to a unit times its depth
    bound = 4 if xs[0].dtype == torch.bfloat16 else 64
    assert worst <= bound, f"outputs differ by {worst:.1f} units; nothing is timed"
    return worst


def case(name: str, rounds: int) -> list[dict[str, Any]]:
    form, d_hidden, dtype, count = CASES[name]
    dense = layers(form, d_hidden, dtype, count)
    fast = copy.deepcopy(dense)
    start = time.perf_counter()
    handle = accelerate(fast, measure_anew=True)
    print(f"{name}: accelerate took {time.perf_counter() - start:.1f} s", file=sys.stderr)
    calls = candidates(dense, fast, d_hidden)
    read = reading(dense)
    weights = (2 if form == "plain" else 3) * D * d_hidden * dtype.itemsize
    assert weights * count >= 1e9
    rows = []
    for level in LEVELS:
        fire([dense, fast], level)
        xs = [torch.randn(1, D).to(dtype) for _ in range(count)]
        worst = agree(calls, xs)
        seconds = passes(calls | {"reading": read}, xs, rounds)
        gate, active = activity(dense, xs)
        best = min(calls, key=lambda n: statistics.median(seconds[n]) if n in DENSE else math.inf)
        top = ceiling(form, active, gate)
        fast_s = statistics.median(seconds["accelerated"])
        bandwidth = weights / min(seconds["reading"])
        row = {
            "case": name, "d_model": D, "d_hidden": d_hidden, "dtype": str(dtype)[6:],
            "layers": count, "sparsity": 1 - gate, "rows_read": (gate + active) / 2,
            "best_dense": best, "ceiling": top,
            "difference_eps": worst, "dense_bytes": weights,
            "bytes_per_s": weights / top / fast_s,
            "bandwidth_bytes_per_s": bandwidth,
            "share_of_bandwidth": weights / top / fast_s / bandwidth,
            "rounds": rounds,
        }  # fmt: skip
        for kind, values in seconds.items():
            row[f"median_s {kind}"], row[f"min_s {kind}"] = statistics.median(values), min(values)
        for kind in DENSE:
            row[f"speedup over {kind}"] = 1 / ratio(seconds["accelerated"], seconds[kind])[0]
        row["speedup"] = 1 / ratio(seconds["accelerated"], seconds[best])[0]
        row["own dense over nn.Linear"] = 1 / ratio(seconds["own dense"], seconds["nn.Linear"])[0]
        rows.append(row)
        print(
            f"{name} sparsity {1 - gate:.1%}: "
            + ", ".join(f"{k} {statistics.median(v) * 1e3:.2f}" for k, v in seconds.items())
            + f" ms; {row['speedup']:.2f} x the best dense ({best}), ceiling {top:.2f}, "
            f"{row['share_of_bandwidth']:.0%} of {bandwidth / 1e9:.1f} GB/s; own dense "
            f"{row['own dense over nn.Linear']:.2f} x nn.Linear",
            flush=True,
        )
    handle.undo()
    return rows


DENSE = ("nn.Linear", "torch.mv", "own dense")


def activity(model: nn.Sequential, xs: list[Tensor]) -> tuple[float, float]:
    """Shares of active gates, whose rows of up are read, and of neurons, whose rows of down are."""
    shares = []
    for block, x in zip(model, xs, strict=False):
        gated = hasattr(block, "gate_proj")
        gate = block.act_fn((block.gate_proj if gated else block.up_proj)(x)) != 0
        neuron = gate & (block.up_proj(x) > 0) if gated and block.activate_up else gate
        shares.append([float(found.float().mean()) for found in (gate, neuron)])
    return tuple(map(statistics.mean, zip(*shares, strict=True)))


def grid(name: str, batches: list[int]) -> Iterator[list[dict[str, Any]]]:
    """Skipping, dense and what is chosen, by sparsity: after each batch, its rows."""
    form, d_hidden, dtype, count = CASES[name]
    dense = layers(form, d_hidden, dtype, count)
    fast = copy.deepcopy(dense)
    handle = accelerate(fast, measure_anew=True)
    calls = candidates(dense, fast, d_hidden)
    del calls["torch.mv"]
    for batch in batches:
        # a large batch is bound by arithmetic: fewer layers, still far more than the caches hold
        used, rounds = (count, 6) if batch <= 8 else (count // 4, 5)
        rows = []
        for level in GRID:
            fire([dense, fast], level)
            xs = [torch.randn(batch, D).to(dtype) for _ in range(used)]
            before = handle.calls()
            seconds = passes(calls, xs, rounds)
            after = handle.calls()
            # the forced candidates count in their own paths
            forced = (rounds + 1) * used
            read = sum(activity(dense, xs)) / 2
            taken = {k: after[k] - before[k] - (0 if k == "original" else forced) for k in after}
            middle = {k: statistics.median(v) for k, v in seconds.items()}
            best = min(("nn.Linear", "own dense"), key=lambda k: middle[k])
            skip, low, _ = ratio(seconds["skipping"], seconds[best])
            chosen = ratio(seconds["accelerated"], seconds[best])[0]
            rows.append({
                "case": name, "batch": batch, "sparsity": level, "rows_read": read, "layers": used,
                "best_dense": best, "skipping_over_dense": skip, "lower_quartile": low,
                "accelerated_over_dense": chosen,
                "own_over_torch": ratio(seconds["own dense"], seconds["nn.Linear"])[0],
                "dense_chosen": 1 - taken["skipping"] / sum(taken.values()),
                **{f"median_s {k}": v for k, v in middle.items()},
            })  # fmt: skip
            row = rows[-1]
            print(
                f"{name} batch {batch} sparsity {level:.0%}: skipping {skip:.2f} ({low:.2f} at the "
                f"lower quartile), chosen {chosen:.2f} of {best}, dense chosen "
                f"{row['dense_chosen']:.0%}, own dense {row['own_over_torch']:.2f} of nn.Linear",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        yield rows
    handle.undo()


def below(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was chosen where skipping is the slower one, by its median and, so beyond noise, by its
    lower quartile; and what it costs wherever the dense product is chosen."""

    def share(key: str) -> dict[str, Any]:
        found = [r["dense_chosen"] for r in rows if r[key] > 1]
        return {"cases": len(found), "dense_chosen": statistics.mean(found) if found else None}

    dense = [r["accelerated_over_dense"] for r in rows if r["dense_chosen"] > 0.99]
    return {
        "cases": len(rows),
        "slower_by_median": share("skipping_over_dense"),
        "slower_by_lower_quartile": share("lower_quartile"),
        "where_dense_is_chosen": {
            "cases": len(dense), "median_ratio": statistics.median(dense) if dense else None,
        },
        "largest_ratio": max(r["accelerated_over_dense"] for r in rows),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--grid", action="store_true", help="the sweep alone")
    parser.add_argument("--batches", nargs="*", type=int, choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="what it holds already is kept")
    given = parser.parse_args()
    torch.manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        for name in given.only:
            rows = [] if given.grid else case(name, given.rounds)
            # each batch is kept as soon as it is measured
            for sweep in grid(name, given.batches) if given.grid else [[]]:
                if given.json:
                    write(given.json, name, rows, sweep)
                if sweep:
                    print(below(sweep), flush=True)
    return 0


def write(path: Path, name: str, rows: list[Any], sweep: list[Any]) -> None:
    """Put one case in the place of what the file holds of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    old, swept = kept.get("rows", []), kept.get("grid", [])
    if rows:
        old = [r for r in old if r["case"] != name] + rows
    if sweep:
        new = {(r["case"], r["batch"]) for r in sweep}
        swept = [r for r in swept if (r["case"], r["batch"]) not in new] + sweep
    commands = dict.fromkeys([*kept.get("commands", []), command()])
    write_json(path, {
        "kind": "sparsity_decode", "commands": list(commands), "environment": environment(),
        "patterns": "independent tokens; each neuron fires with a log-normal rate of its own",
        "rows": old, "grid": swept, "choice": below(swept) if swept else None,
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
