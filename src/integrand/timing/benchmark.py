"""`bench`: speed of a certified activation next to named baselines."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from integrand.certificate import Certificate, certify
from integrand.errors import CertificationError
from integrand.timing.baselines import BASELINES, Entry, Function, baselines, own
from integrand.timing.memory import saved_bytes
from integrand.timing.pairing import paired, ratio

logger = logging.getLogger(__name__)
Row = dict[str, Any]

DIRECTIONS = ("forward", "forward+backward")


def bench(
    act: Any,
    dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16),
    shape: Sequence[int] = (1024, 4096),
    params: Mapping[str, float] | None = None,
    impls: Sequence[str] = ("auto",),
    *,
    against: Sequence[str] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    rounds: int = 15,
    warmup: int = 3,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Rows of paired timings, one per implementation or baseline, dtype and direction.

    A row has `name impl compiled dtype shape direction allocated threads median_s` (seconds per
    call, which allocates its results: `allocated`), `saved_bytes` (kept for backward per element,
    input included), `certified` (True, False, None for a yardstick that is another function), and
    for every baseline B `ratio_B`, the median over rounds of the time relative to B, with its
    quartiles in `spread_B`. Backward computes the gradient of x and of every trainable parameter.

    Args:
        impls: implementations of `act` to time.
        against: names of baselines (`silu reference compiled transformers transformers_compiled`);
            default: all there are.
        progress: called with a line of text; default: `logging` at INFO.

    Raises:
        CertificationError: an implementation of `act` fails its certificate: no speed is given.
    """
    tell = progress or logger.info
    rows: list[Row] = []
    for dtype in dtypes:
        entries = _entries(act, params, impls, against, dtype, device)
        generator = torch.Generator().manual_seed(0)
        x, dout = (torch.randn(*shape, generator=generator).to(device, dtype) for _ in range(2))
        verdicts = {}
        for key, entry in entries.items():
            tell(f"{entry.name} ({key}) {dtype}: certificate")
            verdicts[key] = _verdict(act, entry, key, params, x)
        saved = {key: saved_bytes(entry.call, x) for key, entry in entries.items()}
        for direction in directions:
            tell(f"{act.name} {dtype} {direction}: {rounds} rounds of {len(entries)}")
            rows += _timed(entries, verdicts, saved, direction, x, dout, rounds, warmup)
    return rows


def _entries(
    act: Any, params: Mapping[str, float] | None, impls: Sequence[str],
    against: Sequence[str] | None, dtype: torch.dtype, device: str,
) -> dict[str, Entry]:  # fmt: skip
    known = baselines(act, params, dtype, device, BASELINES if against is None else against)
    return {**{f"impl:{i}": own(act, i, params, dtype, device) for i in impls}, **known}


def _verdict(
    act: Any, entry: Entry, key: str, params: Mapping[str, float] | None, x: torch.Tensor
) -> bool | None:
    if not entry.computes:
        return None
    peer = entry.compiled or entry.values is not None
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


def _timed(
    entries: Mapping[str, Entry], verdicts: Mapping[str, bool | None], saved: Mapping[str, float],
    direction: str, x: torch.Tensor, dout: torch.Tensor, rounds: int, warmup: int,
) -> list[Row]:  # fmt: skip
    calls = {key: _call(entry, direction, x, dout) for key, entry in entries.items()}
    wait = torch.cuda.synchronize if x.is_cuda else None
    seconds = paired(calls, rounds, warmup, synchronize=wait)
    rows = []
    for key, entry in entries.items():
        row: Row = {
            "name": entry.name,
            "impl": entry.impl,
            "compiled": entry.compiled,
            "dtype": str(x.dtype).removeprefix("torch."),
            "shape": list(x.shape),
            "direction": direction,
            "allocated": True,
            "threads": torch.get_num_threads(),
            "median_s": statistics.median(seconds[key]),
            "saved_bytes": saved[key],
            "certified": verdicts[key],
        }
        for name in entries:
            if not name.startswith("impl:"):
                middle, low, high = ratio(seconds[key], seconds[name])
                row[f"ratio_{name}"], row[f"spread_{name}"] = middle, [low, high]
        rows.append(row)
    return rows


def _call(entry: Entry, direction: str, x: torch.Tensor, dout: torch.Tensor) -> Callable[[], Any]:
    if direction == "forward":

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return entry.call(x)

        return forward
    leaf = x.detach().requires_grad_()
    wanted = [leaf, *(p for p in entry.params if p.requires_grad)]

    def both() -> Any:
        return torch.autograd.grad(entry.call(leaf), wanted, dout)

    return both


def table(rows: Sequence[Row]) -> str:
    """The rows as text; `!` marks what fails its certificate, `=` what was not certified."""
    names = [k.removeprefix("ratio_") for k in rows[0] if k.startswith("ratio_")] if rows else []
    head = ["name", "impl", "dtype", "direction", "ms", *(f"/{n}" for n in names), "saved B"]
    lines = [head]
    for r in rows:
        mark = {True: "", False: " !", None: " ="}[r["certified"]]
        impl = f"{r['impl']}{' compiled' if r['compiled'] else ''}"
        ratios = [f"{r[f'ratio_{n}']:.2f}" for n in names]
        lines.append(
            [r["name"] + mark, impl, r["dtype"], r["direction"], f"{r['median_s'] * 1e3:.2f}",
             *ratios, f"{r['saved_bytes']:.1f}"]
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
