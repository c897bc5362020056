"""The Triton backend on a GPU: is it right, then how fast, then as the epilogue of a product.

    PYTHONPATH=src python benchmarks/gpu.py [--quick] [--json PATH]
    PYTHONPATH=src python benchmarks/gpu.py --dry-run     # tiny, in Triton's interpreter, no speeds

Needs torch, triton, sympy and numpy; no network. Exit status 1 as soon as something is wrong:
then no speed is printed. On a GPU it writes results/gpu/summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    # read when kernels are defined
    os.environ["TRITON_INTERPRET"] = "1"

try:
    import torch
    import torch.nn.functional as F
    import triton

    import integrand as ig
    from integrand.kernels import reference, triton_gemm
    from integrand.kernels import triton as backend
except ImportError as error:
    sys.exit(f"this needs torch, triton, numpy, sympy and src on PYTHONPATH: {error}")

Call = Callable[[], Any]
CERTIFIED = ("xielu", "silu", "gelu", "relu2", "gelu_tanh", "elu", "mish", "softplus", "tanh")
CERTIFIED += ("integral_gelu", "sine")
SHAPES = ((1, 16384), (64, 16384), (4096, 8192), (16384, 8192))
PLAIN = {"silu": F.silu, "gelu": F.gelu, "relu2": lambda x: F.relu(x).square()}
BLOCKS = ((1024, 4, 1), (1024, 4, 3), (2048, 4, 1), (2048, 4, 3), (4096, 4, 1), (4096, 8, 3))
GEMM_BLOCKS = (
    (128, 256, 64, 8, 4),
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
    (128, 128, 64, 8, 4),
)
GEMM_BLOCKS += ((128, 128, 64, 4, 4),)


def say(text: str) -> None:
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


START = time.perf_counter()


class Wrong(Exception):
    """A check failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes, fewer rounds")
    parser.add_argument("--dry-run", action="store_true", help="tiny, interpreted, on the CPU")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("no GPU that torch can use; --dry-run works without one", file=sys.stderr)
        return 2
    bench = Bench(options.dry_run, options.quick)
    try:
        bench.check()
        bench.results["correct"] = True
        bench.time()
    except Wrong as wrong:
        bench.results["correct"] = False
        print(f"wrong: {wrong}", file=sys.stderr)
    text = json.dumps(bench.results, indent=1) + "\n"
    paths = [options.json] if options.json else []
    if not options.dry_run:
        paths.append(Path(__file__).parents[1] / "results" / "gpu" / "summary.json")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    bench.table()
    return 0 if bench.results["correct"] else 1


class Bench:
    """One run; `results` is what is written."""

    def __init__(self, dry: bool, quick: bool) -> None:
        self.dry, self.quick = dry, quick
        self.device = "cpu" if dry else "cuda"
        self.rounds = 12 if quick else 40
        self.results: dict[str, Any] = {"kind": "gpu", "machine": machine(dry), "speeds": []}
        self.results["command"] = " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
        # larger than any cache
        size = 8 if dry else 1 << 29
        self.flush = torch.empty(size, dtype=torch.uint8, device=self.device)

    def check(self) -> None:
        """Certificates, determinism, error of the sums."""
        self.results["certificates"] = rows = []
        names = ("relu2",) if self.dry else CERTIFIED[:6] if self.quick else CERTIFIED
        for name in names:
            act = ig.activation(name)
            for dtype in (torch.bfloat16, torch.float16):
                cert = ig.certify(act, dtype, impl="triton", device=self.device)
                rows.append(cert.to_dict())
                say(f"{name} {dtype}: {'certified' if cert.ok else 'FAILS'}")
        if failed := [f"{r['name']} {r['dtype']}" for r in rows if not r["ok"]]:
            raise Wrong(f"no certificate for {', '.join(failed)}")
        act = ig.activation("xielu")
        size = 1 << (12 if self.dry else 25)
        x, dout = (self.normal(size, torch.bfloat16) for _ in range(2))
        values = self.values(act)
        kernel = backend.load(act.program, torch.bfloat16)
        first = kernel.backward(x, dout, values)[1]
        for _ in range(1 if self.dry else 19):
            again = kernel.backward(x, dout, values)[1]
            if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
                raise Wrong("parameter gradients differ from run to run")
        self.results["parameter_errors"] = errors = {}
        for weight in (dout, dout.abs()):
            got = kernel.backward(x, weight, values)[1]
            exact = reference.run(
                act.program, x.double(), values, [f"d_{p}" for p in act.program.params]
            )
            for name, g, partial in zip(act.program.params, got, exact, strict=True):
                terms = weight.double() * partial
                error = ((g.double().sum() - terms.sum()).abs() / terms.abs().sum()).item()
                errors[name] = max(errors.get(name, 0.0), error)
        say(f"parameter gradients over {size} elements, relative errors {errors}")
        if max(errors.values()) > 1e-5:
            raise Wrong(f"parameter gradients are off by more than 1e-5: {errors}")
        if not self.dry:
            self.capture()

    def capture(self) -> None:
        """Nothing waits for the GPU, and a replayed CUDA graph gives the bits of an eager call."""
        layer = ig.activation("xielu").module(impl="triton", device=self.device)
        x = self.normal((64, 4096), torch.bfloat16).requires_grad_()
        dout = self.normal(x.shape, x.dtype)

        def step() -> tuple[torch.Tensor, ...]:
            y = layer(x)
            return y, *torch.autograd.grad(y, [x, *layer.parameters()], dout)

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            step()
            torch.cuda.set_sync_debug_mode("error")
            step()
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            x.copy_(self.normal(x.shape, x.dtype))
        graph.replay()
        if not all(map(torch.equal, captured, step())):
            raise Wrong("a replayed CUDA graph differs from an eager call")
        say("no call waits for the GPU; a CUDA graph replays to the same bits")

    def time(self) -> None:
        """Bandwidth of the pointwise kernels, then the epilogues."""
        shapes = SHAPES[2:3] if self.quick else SHAPES
        dtypes = (torch.bfloat16,) if self.quick else (torch.bfloat16, torch.float32)
        for dtype in dtypes:
            for shape in ((2, 64),) if self.dry else shapes:
                self.pointwise("xielu", shape, dtype)
        for name in () if self.dry else PLAIN:
            self.pointwise(name, (4096, 8192), torch.bfloat16)
        self.launches((2, 64) if self.dry else (1, 16384))
        self.sweep((2, 64) if self.dry else (16384, 8192))
        self.mlp(*(32, 16, 40) if self.dry else (8192, 4096, 21504))

    def pointwise(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
        """Forward and backward of one activation against its baselines and a copy."""
        act = ig.activation(name)
        values = self.values(act, grad=True)
        x = self.normal(shape, dtype).requires_grad_()
        dout = self.normal(shape, dtype)
        functions = functions_of(act, values, dtype, self.dry)
        forward, backward = {}, {}
        for label, (function, parameters) in functions.items():
            try:
                y = function(x)
                inputs = [x, *(p for p in parameters if p.requires_grad)]
                torch.autograd.grad(y, inputs, dout, retain_graph=True, allow_unused=True)
            except Exception as error:  # a baseline that breaks must not end the run
                say(f"{label} does not run: {str(error)[:200]}")
                continue
            forward[label] = lambda function=function: no_grad(function, x)
            backward[label] = lambda y=y, inputs=inputs: torch.autograd.grad(
                y, inputs, dout, retain_graph=True, allow_unused=True
            )
        for direction, calls, tensors in (("forward", forward, 2), ("backward", backward, 3)):
            moved = tensors * x.numel() * x.element_size()
            source, target = (self.flush.new_empty(moved // 2) for _ in range(2))
            source.random_(0, 255)
            calls = {"copy": lambda s=source, t=target: t.copy_(s), **calls}
            common = {"name": name, "shape": list(shape), "dtype": dtype}
            self.record(calls, moved, **common, direction=direction)
        if not self.dry:
            torch._dynamo.reset()

    def launches(self, shape: tuple[int, int]) -> None:
        """Host time of a call: forward without autograd, forward and backward with it."""
        act = ig.activation("xielu")
        layers = {"triton": act.module(impl="triton", device=self.device), "F.silu": F.silu}
        x = self.normal(shape, torch.bfloat16).requires_grad_()
        self.results["launches"] = rows = []
        for label, layer in layers.items():
            calls = {
                "forward": lambda f=layer: no_grad(f, x),
                "forward + backward": lambda f=layer: f(x).backward(x.detach()),
            }
            for direction, call in calls.items():
                samples = []
                for _ in range(2 if self.dry else 20):
                    self.wait()
                    start = time.perf_counter()
                    for _ in range(1 if self.dry else 50):
                        call()
                    samples.append((time.perf_counter() - start) / 50)
                rows.append({"impl": label, "direction": direction})
                rows[-1]["host_s"] = statistics.median(samples)
                say(f"host time of {label} {direction}: {rows[-1]['host_s'] * 1e6:.1f} us")

    def sweep(self, shape: tuple[int, int]) -> None:
        """Sizes of tiles for the largest tensors."""
        act = ig.activation("xielu")
        x, dout = (self.normal(shape, torch.bfloat16) for _ in range(2))
        values = self.values(act)
        out = torch.empty_like(x)
        for direction, tensors in (("forward", 2), ("backward", 3)):
            moved = tensors * x.numel() * x.element_size()
            source, target = (self.flush.new_empty(moved // 2) for _ in range(2))
            calls: dict[str, Call] = {"copy": lambda s=source, t=target: t.copy_(s)}
            for blocks in BLOCKS[:1] if self.dry else BLOCKS:
                kernel = backend.load(act.program, torch.bfloat16)
                kernel.blocks = kernel.backward_blocks = backend.Blocks(*blocks)
                if direction == "forward":
                    call = lambda k=kernel: k.forward(x, values, out)  # noqa: E731
                else:
                    call = lambda k=kernel: k.backward(x, dout, values, [True, True, False])  # noqa: E731
                calls[f"triton {' / '.join(map(str, blocks))}"] = call
            self.record(
                *(calls, moved),
                **{"name": "xielu", "shape": list(shape), "dtype": x.dtype},
                direction=f"{direction}: elements, warps, stages",
            )

    def mlp(self, tokens: int, width: int, hidden: int) -> None:
        """Forward and backward of down(act(up(x))) with the activation inside its products."""
        act = ig.activation("xielu")
        program, dtype = act.program, torch.bfloat16
        values = self.values(act)
        kernel = backend.load(program, dtype)
        x, dy = self.normal((tokens, width), dtype), self.normal((tokens, width), dtype)
        up = self.normal((hidden, width), dtype) / width**0.5
        down = self.normal((width, hidden), dtype) / hidden**0.5

        def bare() -> Any:
            h = x @ up.T
            da = dy @ down
            return h @ down.T, da @ up, da.T @ x, dy.T @ h

        def separate() -> Any:
            h = x @ up.T
            y = kernel.forward(h, values) @ down.T
            a = torch.empty_like(h)
            dh, sums = kernel.backward(h, dy @ down, values, [True, True, False], y=a)
            return y, dh @ up, dh.T @ x, dy.T @ a, *sums

        def fused(forward: Any, backward: Any) -> Any:
            a, h = triton_gemm.forward(program, x, up, values, blocks=forward)
            y = a @ down.T
            dh, a, sums = triton_gemm.backward(program, dy, down, h, values, blocks=backward)
            return y, dh @ up, dh.T @ x, dy.T @ a, *sums

        blocks = ((32, 32, 16, 4, 2),) if self.dry else GEMM_BLOCKS
        h = x @ up.T
        half: dict[str, Call] = {"bare": lambda: x @ up.T}
        other: dict[str, Call] = {"bare": lambda: dy @ down}
        for b in blocks:
            label = "epilogue " + " ".join(map(str, b))
            half[label] = lambda b=b: triton_gemm.forward(program, x, up, values, blocks=b)
            other[label] = lambda b=b: triton_gemm.backward(program, dy, down, h, values, blocks=b)
        shape = [tokens, width, hidden]
        common: dict[str, Any] = {"name": "xielu", "shape": shape, "dtype": dtype}
        half, other = self.working(half), self.working(other)
        one = self.record(half, 0, **common, direction="act(x up^T)")
        two = self.record(other, 0, **common, direction="(dy down) act'(h)")
        best = [
            min((k for k in times if k != "bare"), key=lambda k, t=times: t[k], default=None)
            for times in (one, two)
        ]
        if None in best:
            say("the epilogues do not run here")
            return
        chosen = [tuple(map(int, str(label).split()[1:])) for label in best]
        self.compare_mlp(fused(*chosen), separate(), act, h, dy @ down, values)
        calls = {"bare": bare, "separate": separate, "epilogues": lambda: fused(*chosen)}
        block = ig.nn.MLP(act, width, hidden, dtype=dtype, device=self.device, impl="triton")
        leaf = x.detach().requires_grad_()
        calls["ig.nn.MLP"] = lambda: torch.autograd.grad(
            block(leaf), [leaf, *block.parameters()], dy
        )
        if not self.dry:
            calls["formula compiled"] = compiled_mlp(x, up, down, dy, self.values(act, grad=True))
        self.record(self.working(calls), 0, **common, direction="MLP forward + backward")

    def compare_mlp(
        self, fused: Any, separate: Any, act: Any, h: Any, da: Any, values: Any
    ) -> None:
        """Matrices within roundings of bf16 of each other; sums relative to their terms' sizes.

        The epilogue does not round dy down to bf16, by up to 2^-9, at random, in each of n terms.
        """
        errors = [
            ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()
            for got, wanted in zip(fused[:4], separate[:4], strict=True)
        ]
        for k, name in enumerate(act.program.params[:2]):
            (partial,) = reference.run(act.program, h.float(), values, [f"d_{name}"])
            size = (da.float() * partial).abs().double().sum()
            errors.append(((fused[4 + k].double() - separate[4 + k].double()).abs() / size).item())
        say(f"epilogue against its parts, relative errors {[f'{e:.1e}' for e in errors]}")
        allowed = 2**-9 * 8 / h.numel() ** 0.5 + 1e-6
        if not (max(errors[:4]) < 2**-7 and max(errors[4:]) < allowed):
            raise Wrong(f"the epilogue differs from its parts: {errors}")

    def working(self, calls: dict[str, Call]) -> dict[str, Call]:
        """Those that run; the others are named."""
        result = {}
        for label, call in calls.items():
            try:
                call()
                self.wait()
                result[label] = call
            except Exception as error:
                say(f"{label} does not run: {type(error).__name__} {str(error)[:200]}")
        return result

    def record(self, calls: dict[str, Call], moved: int, **common: Any) -> dict[str, float]:
        """Medians in seconds by label; `moved` bytes, 0 where bandwidth is not the limit."""
        common["dtype"] = str(common["dtype"]).removeprefix("torch.")
        times = self.medians(calls)
        if self.dry:
            return times
        base = times.get("copy") or times["bare"]
        for label, seconds in times.items():
            row = {**common, "impl": label, "median_s": seconds}
            if moved:
                row |= {"gb_per_s": moved / seconds / 1e9, "percent_of_copy": 100 * base / seconds}
            else:
                row |= {"ratio_bare": seconds / base}
            self.results["speeds"].append(row)
        say(", ".join(f"{k} {v * 1e6:.1f} us" for k, v in times.items()))
        return times

    def medians(self, calls: dict[str, Call]) -> dict[str, float]:
        """Each call in turn, `rounds` times, on a cold cache, by events: launches are hidden."""
        samples: dict[str, list[float]] = {label: [] for label in calls}
        labels = list(calls)
        for k in range(1 if self.dry else self.rounds + 3):
            for label in labels[k % len(labels) :] + labels[: k % len(labels)]:
                self.flush.zero_()
                if self.dry:
                    calls[label]()
                    samples[label].append(1.0)
                    continue
                # the GPU waits until everything is launched: what Python costs is `launches`
                torch.cuda._sleep(1_500_000)
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                calls[label]()
                end.record()
                torch.cuda.synchronize()
                if k >= 3:
                    samples[label].append(start.elapsed_time(end) / 1e3)
        return {label: statistics.median(s) for label, s in samples.items()}

    def wait(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def normal(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, device=self.device).to(dtype)

    def values(self, act: Any, grad: bool = False) -> list[torch.Tensor]:
        return [
            torch.tensor([float(p.init)], device=self.device, requires_grad=grad and p.trainable)
            for p in act.spec.params.values()
        ]

    def table(self) -> None:
        """The results as text, the shortest form that says all."""
        for r in self.results["speeds"]:
            size = "x".join(map(str, r["shape"]))
            if "gb_per_s" in r:
                rate = f"{r['gb_per_s']:7.0f} GB/s {r['percent_of_copy']:5.1f} % of copy"
            else:
                rate = f"{r['ratio_bare']:7.3f} x bare"
            print(
                f"{r['name']:6s} {r['dtype']:9s} {size:16s} {r['direction']:26s} {r['impl']:24s} "
                f"{r['median_s'] * 1e6:9.1f} us {rate}"
            )
        for r in [] if self.dry else self.results.get("launches", []):
            print(f"host, a call: {r['impl']} {r['direction']} {r['host_s'] * 1e6:.1f} us")
        certified = sum(r["ok"] for r in self.results.get("certificates", []))
        print(f"{certified} certificates; correct: {self.results['correct']}")


def functions_of(
    act: Any, values: Sequence[torch.Tensor], dtype: torch.dtype, dry: bool
) -> dict[str, tuple[Any, Sequence[torch.Tensor]]]:
    """What computes the activation, ours, the formula, the library's own, with its parameters."""
    named = dict(zip(act.program.params, values, strict=True))
    functions: dict[str, Any] = {"triton": (lambda x: act(x, impl="triton", **named), values)}
    plain = PLAIN.get(act.name) or (lambda x: formula(x, *values))
    functions["formula"] = plain, values
    if not dry:
        functions["formula compiled"] = torch.compile(plain, dynamic=False), values
        reference_ = torch.compile(lambda x: act(x, impl="reference", **named), dynamic=False)
        functions["reference compiled"] = reference_, values
    if act.name == "xielu":
        functions["F.silu"] = F.silu, []
        try:
            from xielu.ops.wrappers import XIELU

            peer = XIELU(device=values[0].device, dtype=dtype)
            # it takes three dims
            functions["XIELU (CUDA)"] = lambda x: peer(x[None])[0], list(peer.parameters())
        except Exception as error:
            say(f"the public CUDA xIELU is absent here: {error}")
    return functions


def formula(
    x: torch.Tensor, alpha_p: torch.Tensor, alpha_n: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """xIELU as it is written (arXiv:2411.13010), in fp32."""
    t = x.float()
    left = alpha_n * (torch.expm1(torch.clamp(t, max=0.0)) - t) + beta * t
    return torch.where(t > 0, alpha_p * t * t + beta * t, left).to(x.dtype)


def compiled_mlp(
    x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, dy: torch.Tensor, values: Any
) -> Call:
    """The block with the plain formula, by torch.compile."""
    x, up, down = (t.detach().requires_grad_() for t in (x, up, down))
    block = torch.compile(lambda x, up, down: formula(x @ up.T, *values) @ down.T, dynamic=False)
    inputs = [x, up, down, *(v for v in values if v.requires_grad)]
    return lambda: torch.autograd.grad(block(x, up, down), inputs, dy)


def no_grad(function: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return function(x)


def machine(dry: bool) -> dict[str, Any]:
    """What the numbers hold for."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    found = {
        "device": "Triton's interpreter" if dry else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }
    if not dry:
        properties = torch.cuda.get_device_properties(0)
        found["multiprocessors"] = properties.multi_processor_count
        found["l2_bytes"] = getattr(properties, "L2_cache_size", None)
    return found


if __name__ == "__main__":
    sys.exit(main())
