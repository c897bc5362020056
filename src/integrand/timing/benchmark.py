"""`bench`: speed of a certified activation next to named baselines.

GB/s are bytes that must move: x and y forward; x, dout and dx backward; all five both ways.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from integrand.certificate import Certificate, certify
from integrand.errors import CertificationError
from integrand.timing.baselines import DEFAULT, Entry, Function, baselines, check_names, own
from integrand.timing.cost import causes
from integrand.timing.memory import saved_bytes
from integrand.timing.pairing import paired, ratio

logger = logging.getLogger(__name__)
Row = dict[str, Any]
Case = tuple[str, bool]

# (direction, whether the call allocates its results)
USER: tuple[Case, ...] = (("forward", True), ("forward+backward", True))
KERNEL: tuple[Case, ...] = (("forward", False), ("backward", False))
# decode, a small batch, training: the last is larger than cache
SHAPES = ((1, 16384), (1024, 4096), (4096, 8192))
_TENSORS = {"forward": 2, "backward": 3, "forward+backward": 5}


def bench(
    act: Any,
    dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16),
    shapes: Iterable[Sequence[int]] = SHAPES,
    params: Mapping[str, float] | None = None,
    impls: Sequence[str] = ("auto",),
    *,
    against: Sequence[str] | None = None,
    cases: Sequence[Case] = (*KERNEL, *USER),
    rounds: int = 15,
    warmup: int = 3,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
    done: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Rows of paired timings, one per implementation or baseline, dtype, shape and case.

    A row has `name impl compiled dtype shape direction allocated threads median_s` (seconds per
    call), `bytes_per_element` and `gb_per_s`, `percent_of_copy`, `saved_bytes` (kept for backward
    per element, input included), `certified` (True, False, None for a yardstick that is another
    function), `program` (what was measured), `causes` (what costs arithmetic), and for every
    baseline B `ratio_B`, the median over rounds of the time relative to B, with its quartiles in
    `spread_B`.

    Args:
        impls: implementations of `act` to time.
        against: names of baselines, see `baselines.BASELINES`; default: all but the eager formulas.
        cases: pairs (direction, allocated). Allocated is the call of a user: forward in inference
            mode, forward+backward with the gradients of x and of every trainable parameter. Else
            results are written where they are told, by those that can.
        progress: called with a line of text; default: `logging` at INFO.
        done: called with the rows of each dtype and shape as they are there.

    Raises:
        SpecError: an unknown baseline.
        CertificationError: an implementation of `act` fails its certificate: no speed is given.
    """
    check_names(against or ())
    tell = progress or logger.info
    rows: list[Row] = []
    for dtype in dtypes:
        entries = _entries(act, params, impls, against, dtype, device)
        verdicts: dict[str, bool | None] = {}
        for shape in shapes:
            # every shape is compiled anew; dynamo refuses after eight of one function
            torch.compiler.reset()
            generator = torch.Generator().manual_seed(0)
            x, dout = (torch.randn(*shape, generator=generator).to(device, dtype) for _ in range(2))
            for key, entry in entries.items():
                if key not in verdicts:
                    tell(f"{entry.name} ({key}) {_short(dtype)}: certificate")
                    verdicts[key] = _verdict(act, entry, key, params, x)
            saved = {
                key: 0.0 if entry.both else saved_bytes(entry.call, x)
                for key, entry in entries.items()
            }
            before = len(rows)
            for direction, allocated in cases:
                calls = _calls(entries, direction, allocated, x, dout)
                if not any(key.startswith("impl:") for key in calls):
                    continue
                size = "x".join(map(str, shape))
                how = "as called" if allocated else "preallocated"
                tell(f"{act.name} {_short(dtype)} {size} {direction} {how}: {len(calls)} entries")
                wait = torch.cuda.synchronize if x.is_cuda else None
                seconds = paired(calls, rounds, warmup, synchronize=wait)
                about = {
                    "activation": act.name,
                    "dtype": _short(dtype),
                    "shape": list(shape),
                    "direction": direction,
                    "allocated": allocated,
                    "threads": torch.get_num_threads(),
                    "bytes_per_element": _TENSORS[direction] * x.element_size(),
                    "program": act.program.digest[:16],
                    "causes": causes(act.program),
                }
                rows += _rows(entries, verdicts, saved, seconds, about, x.numel())
            if done:
                done(rows[before:])
    return rows


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _entries(
    act: Any, params: Mapping[str, float] | None, impls: Sequence[str],
    against: Sequence[str] | None, dtype: torch.dtype, device: str,
) -> dict[str, Entry]:  # fmt: skip
    known = baselines(act, params, dtype, device, DEFAULT if against is None else against)
    return {**{f"impl:{i}": own(act, i, params, dtype, device) for i in impls}, **known}


def _verdict(
    act: Any, entry: Entry, key: str, params: Mapping[str, float] | None, x: torch.Tensor
) -> bool | None:
    if not entry.computes:
        return None
    peer = entry.compiled or entry.impl in ("transformers", "formula")
    # a peer that rounds its parameters is measured at the values it uses
    cert: Certificate = certify(
        act,
        x.dtype,
        entry.values or params,
        impl="auto" if peer else entry.impl,
        candidate=_in_shape(entry.call, x.shape) if peer else None,
        device=str(x.device),
        thorough=False,
    )
    if not cert.ok and key.startswith("impl:"):
        raise CertificationError(
            f"no speed for '{act.name}' with impl='{entry.impl}' in {cert.dtype}: its certificate "
            f"fails ({cert.reasons[0]}); `integrand certify` shows where"
        )
    return cert.ok


def _in_shape(call: Function, shape: torch.Size) -> Function:
    """The call on a flat tensor, padded to the shape that is timed: what is compiled for it is
    measured, and is not compiled again."""
    numel = shape.numel()

    def padded(x: torch.Tensor) -> torch.Tensor:
        parts = [torch.nn.functional.pad(p, (0, numel - len(p))) for p in x.split(numel)]
        y = torch.cat([call(p.view(shape)).flatten() for p in parts])
        return y[: len(x)]

    return padded


def _rows(
    entries: Mapping[str, Entry], verdicts: Mapping[str, bool | None], saved: Mapping[str, float],
    seconds: Mapping[str, list[float]], about: Row, numel: int,
) -> list[Row]:  # fmt: skip
    rows = []
    for key in seconds:
        entry, median = entries[key], statistics.median(seconds[key])
        row: Row = {
            "name": entry.name,
            "impl": entry.impl,
            "compiled": entry.compiled,
            **about,
            "median_s": median,
            "gb_per_s": about["bytes_per_element"] * numel / median / 1e9,
            "saved_bytes": saved[key],
            "certified": verdicts[key],
        }
        for name in seconds:
            if not name.startswith("impl:"):
                middle, low, high = ratio(seconds[key], seconds[name])
                row[f"ratio_{name}"], row[f"spread_{name}"] = middle, [low, high]
        if "copy" in seconds:
            row["percent_of_copy"] = 100 / row["ratio_copy"]
        rows.append(row)
    return rows


def _calls(
    entries: Mapping[str, Entry], direction: str, allocated: bool, x: torch.Tensor,
    dout: torch.Tensor,
) -> dict[str, Callable[[], Any]]:  # fmt: skip
    if allocated:
        return {key: _call(entry, direction, x, dout) for key, entry in entries.items()}
    out = torch.empty_like(x)
    if direction == "forward":
        writing = {k: e.forward_into for k, e in entries.items() if e.forward_into}
        return {key: lambda f=f: f(x, out) for key, f in writing.items()}
    writing = {k: e.backward_into for k, e in entries.items() if e.backward_into}
    return {key: lambda f=f: f(x, dout, out) for key, f in writing.items()}


def _call(entry: Entry, direction: str, x: torch.Tensor, dout: torch.Tensor) -> Callable[[], Any]:
    if direction == "forward":

        def forward() -> torch.Tensor:
            with torch.inference_mode():
                return entry.call(x)

        return forward
    if entry.both is not None:
        both = entry.both
        return lambda: both(x, dout)
    leaf = x.detach().requires_grad_()
    wanted = [leaf, *(p for p in entry.params if p.requires_grad)]
    return lambda: torch.autograd.grad(entry.call(leaf), wanted, dout)


def table(rows: Sequence[Row]) -> str:
    """The rows as text; `!` marks what fails its certificate, `=` what was not certified."""
    names = list(dict.fromkeys(k[6:] for r in rows for k in r if k.startswith("ratio_")))
    head = ["name", "impl", "dtype", "shape", "direction", "ms", "GB/s", "% copy",
            *(f"/{n}" for n in names), "saved B"]  # fmt: skip
    lines = [head]
    for r in rows:
        mark = {True: "", False: " !", None: " ="}[r["certified"]]
        impl = f"{r['impl']}{' compiled' if r['compiled'] else ''}"
        shape = "x".join(map(str, r["shape"]))
        direction = r["direction"] + ("" if r["allocated"] else ", preallocated")
        percent = f"{r['percent_of_copy']:.0f}" if "percent_of_copy" in r else "–"
        ratios = [f"{r[f'ratio_{n}']:.2f}" if f"ratio_{n}" in r else "–" for n in names]
        lines.append(
            [r["name"] + mark, impl, r["dtype"], shape, direction, f"{r['median_s'] * 1e3:.3g}",
             f"{r['gb_per_s']:.3g}", percent, *ratios, f"{r['saved_bytes']:.1f}"]
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
