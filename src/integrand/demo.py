"""`demo`: xIELU from its gradient to a trained model, and a page that shows it.

Every stage keeps its result in the folder, under a hash of what it depends on: a demo that was
stopped, by Ctrl-C or by kill -9, goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from integrand.activation import Activation, derive
from integrand.certificate import certify, transformers_xielu, xielu_values
from integrand.errors import DataError
from integrand.report.collect import with_curves
from integrand.report.curves import curves
from integrand.report.describe import to_data
from integrand.report.machine import environment
from integrand.report.page import write_report
from integrand.report.sweep import sweep
from integrand.spec import Param, Spec
from integrand.timing import USER, bench
from integrand.train import DataConfig, Recipe, matched, prepare
from integrand.train import demo as recipe
from integrand.train.files import read_json, write_json
from integrand.train.runs import command

# as a user would write it: the gradient, and what is known of its parameters
SPEC = Spec(
    name="xielu",
    gradient="2*alpha_p*x + beta if x > 0 else alpha_n*expm1(x) + beta",
    params={
        "alpha_p": Param(0.8, above=0),
        "alpha_n": Param(0.8, above="beta"),
        "beta": Param(0.5, trainable=False),
    },
    source="arXiv:2411.13010",
)
# initial values, a nearly linear unit, a steep one, and what a published model learned
VALUES = ((0.8, 0.8), (0.05, 0.51), (10.0, 10.0), (166.0, 41.25))
STAGES = ("derive", "certify", "bench", "train", "report")
# of the whole demo, on two cores: for the first estimate of the time left
TYPICAL_SECONDS = {"derive": 5, "certify": 35, "bench": 100, "train": 180, "report": 5}
# a forward pass of F.silu on the large shape; slower machines get the small one
LARGE, SMALL, SLOW_SECONDS = (4096, 8192), (1024, 4096), 0.06


def demo(data: str = "python-docs", out: Path | str = "runs/demo", quick: bool = False) -> Path:
    """Derive, certify, time and train xIELU; the path of the report.

    Args:
        data: what to train on: `python-docs`, a .txt, .jsonl or .parquet file, a folder, `hf:NAME`.
        out: where results and the report go.
        quick: a few steps of a smaller model, small shapes: for tests.

    Raises:
        DataError: the text is missing or of the wrong kind; nothing is written then.
    """
    for package in ("jinja2", "matplotlib", "tokenizers"):
        _need(package)
    # without the library's own kernel its module says so once per instance
    logging.getLogger("transformers").setLevel(logging.ERROR)
    recipe_used = _recipe(data, quick)
    # a wrong --data is found before minutes are spent
    prepare(recipe_used.config.data)
    run = Run(Path(out), pace=0.1 if quick else 1.0)
    act = derive(SPEC)
    run.stage("derive", [SPEC.sha256], lambda tell: _derive(act))
    run.stage("certify", [SPEC.sha256, quick], lambda tell: _certify(act, quick, tell))
    run.stage("bench", [SPEC.sha256, quick], lambda tell: _bench(act, quick, tell))
    run.train(recipe_used)
    about = {"command": command(), "environment": environment(), "seconds": run.seconds}
    write_json(run.folder / "about.json", about)
    page = run.stage_report()
    return page


class Run:
    """The folder of a demo: kept results by stage, and what a person at the terminal sees."""

    def __init__(self, folder: Path, pace: float = 1.0):
        self.folder = folder
        self.pace = pace
        self.started = self.entered = time.monotonic()
        self.now = ""
        self.seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def stage(
        self, name: str, inputs: list[Any], work: Callable[[Callable[[str], None]], dict[str, Any]]
    ) -> None:
        """The stage's result from its file where that was made from the same inputs, else anew."""
        path = self.folder / f"{name}.json"
        key = _hash([code(), torch.__version__, *inputs])
        if path.exists():
            try:
                kept = read_json(path)
            except DataError:
                kept = {}
            if isinstance(kept, dict) and kept.get("inputs_sha256") == key:
                self.seconds[name] = kept["seconds"]
                self.tell(name, f"kept from before ({path})")
                return
        self.tell(name, "begins")
        start = time.monotonic()
        result = work(lambda text: self.tell(name, text))
        self.seconds[name] = round(time.monotonic() - start, 1)
        write_json(path, {**result, "seconds": self.seconds[name], "inputs_sha256": key})

    def train(self, wanted: Recipe) -> None:
        """Matched training in a folder of its own per inputs, where it keeps and resumes itself."""
        inputs = [code(), torch.__version__, wanted.config.to_dict(), [*map(str, wanted.variants)]]
        folder = self.folder / "train" / _hash(inputs)[:12]
        self.tell("train", "goes on" if folder.exists() else "begins")
        start = time.monotonic()
        summary = matched(*wanted, folder)
        taken = sum(v["wall_s"] for v in summary["variants"])
        self.seconds["train"] = round(max(taken, time.monotonic() - start), 1)
        write_json(self.folder / "study.json", with_curves(summary, folder))

    def stage_report(self) -> Path:
        """The page, made anew each time: it takes a few seconds."""
        self.tell("report", "begins")
        path = write_report(self.folder)
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        self.tell("report", f"done in {minutes}:{seconds:02d}")
        return path

    def tell(self, name: str, text: str) -> None:
        """One line on stderr: the stage, what it does, the time left at the usual pace."""
        place = STAGES.index(name)
        if name != self.now:
            self.now, self.entered = name, time.monotonic()
        here, *later = (self.pace * TYPICAL_SECONDS[s] for s in STAGES[place:])
        left = round(max(0, here - (time.monotonic() - self.entered)) + sum(later))
        over = text.startswith(("kept", "done"))
        clock = "" if over else f" (about {left // 60}:{left % 60:02d} left)"
        print(f"demo {place + 1}/{len(STAGES)} {name}: {text}{clock}", file=sys.stderr, flush=True)


def _derive(act: Activation) -> dict[str, Any]:
    trainable = [name for name, p in act.spec.params.items() if p.trainable]
    return {**to_data(act), "title": "xIELU", "trainable": trainable, "curves": curves(act)}


def _certify(act: Activation, quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    dtypes = (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16)
    rows = []
    for dtype in dtypes:
        for alpha_p, alpha_n in VALUES[: 1 if quick else None]:
            values = {"alpha_p": alpha_p, "alpha_n": alpha_n}
            tell(f"xIELU {str(dtype).removeprefix('torch.')} at {values}")
            rows.append(certify(act, dtype, values, thorough=not quick).to_dict())
    if not quick:
        tell("xIELU bfloat16 under torch.compile")
        rows.append(certify(act, torch.bfloat16, compiled=True, thorough=False).to_dict())
    sweeps = [sweep(act)]
    peer = None
    try:
        modules = [(dtype, transformers_xielu(dtype)) for dtype in dtypes]
    except ImportError:
        tell("transformers is not installed: its xIELU is left out")
        modules = []
    for dtype, module in modules:
        tell(f"transformers' XIELUActivation {str(dtype).removeprefix('torch.')}")
        values = xielu_values(module)
        cert = certify(act, dtype, values, candidate=module, thorough=False).to_dict()
        rows.append(cert)
        if dtype == torch.bfloat16:
            sweeps.append(sweep(act, params=values, candidate=module))
            peer = _peer(cert, rows[0], module)
    return {"kind": "certify", "rows": rows, "sweep": sweeps, "peer": peer}


def _peer(cert: Mapping[str, Any], own: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """What the page says of the peer: its values at 0, and how often it is off."""
    import transformers

    x = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    y = module(x)
    (dx,) = torch.autograd.grad(y, x)
    shares = ("share_off_f", "share_off_df", "mass_off_f", "mass_off_df")
    means = ("mean_ulp_f", "mean_ulp_df")
    return {
        "version": transformers.__version__,
        "at_zero": {"f": float(y.detach()), "df": float(dx), "exact_df": cert["params"]["beta"]},
        **{k: cert[k] for k in (*shares, *means)},
        **{f"own_{k}": own[k] for k in means},
    }


def _bench(act: Activation, quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    shape = (64, 256) if quick else _shape()
    dtypes = (torch.float32,) if quick else (torch.float32, torch.bfloat16)
    rounds = 3 if quick else 7
    fast = ("silu",) if quick else ("silu", "compiled", "transformers_compiled")
    asked = {"cases": USER, "warmup": 1, "progress": tell}
    rows = bench(act, dtypes, [shape], against=fast, rounds=rounds, **asked)
    # the eager module takes ten to thirty times as long: fewer rounds of it
    slow = bench(act, dtypes, [shape], against=("silu", "transformers"), rounds=2, **asked)
    rows += [r for r in slow if r["impl"] == "transformers"]
    rows.sort(key=lambda r: (r["dtype"] != "float32", r["direction"]))
    return {"kind": "bench", "rows": rows, "rounds": rounds}


def _shape() -> tuple[int, int]:
    x = torch.randn(LARGE)
    torch.nn.functional.silu(x)
    start = time.perf_counter()
    torch.nn.functional.silu(x)
    return LARGE if time.perf_counter() - start < SLOW_SECONDS else SMALL


def _recipe(data: str, quick: bool) -> Recipe:
    wanted = recipe(data)
    if not quick:
        return wanted
    model = dataclasses.replace(wanted.config.model, d_model=32, d_hidden=48, layers=2, heads=2)
    small = DataConfig(source=data, vocab_size=512, max_characters=200_000)
    config = dataclasses.replace(
        wanted.config, model=model, data=small, steps=12, batch_size=4, context=32,
        warmup_steps=2, decay_steps=4, eval_every=4, eval_sequences=8, checkpoint_every=4,
    )  # fmt: skip
    return Recipe(config, wanted.variants)


@cache
def code() -> str:
    """A hash of the package's own sources: results of other code are not kept."""
    digest = hashlib.sha256()
    root = files("integrand")
    for room in (".", "catalogue", "certificate", "derivation", "kernels", "nn", "spec", "timing"):
        folder = root if room == "." else root / room
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.is_file() and file.name.endswith((".py", ".toml", ".h")):
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _hash(inputs: list[Any]) -> str:
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _need(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise DataError(f"the demo needs {package}; pip install 'integrand[demo]'")
