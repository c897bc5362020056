"""Every fp32 input: the compiled fp64 kernel decides where its bound allows, else multi-precision.

fp64 values come from the C kernel of the same program, block by block of consecutive bit patterns.
Their error bound is that of `evaluate_with_bound` at 32 points of each 2^17 patterns, doubled;
points it leaves open are decided one by one, like those of a sampled certificate.
"""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from integrand.certificate.certificate import Region
from integrand.certificate.comparison import Comparison
from integrand.certificate.subject import Subject
from integrand.certificate.truth import Truth
from integrand.errors import CertificationError
from integrand.kernels import apply, register

Array = np.ndarray[Any, Any]

ALL = range(1 << 32)
CHUNK, OCTAVE, BIN, BLOCK = 1 << 19, 1 << 23, 1 << 17, 4096
# samples per bin, and the factor by which the largest bound among them is widened
SAMPLES, WIDER = 32, 2.0
# flagged points kept to be decided: of one chunk, and in all
KEPT, MOST = 1024, 1 << 20
# points at which fp64 is compared with multi-precision
REFERENCE = 1000

_RESULT = np.dtype([("worst", "f8"), ("at", "i8"), ("beyond", "i8"), ("flagged", "i8")])
_NAMES = ("f", "df")


@dataclass
class Swept:
    """What a sweep found: `left` are values of x to decide, and the worst of every bin; `beyond`
    counts by (output, octave) the points off by more than 1 ulp."""

    patterns: range
    left: list[Array] = field(default_factory=list)
    beyond: Counter[tuple[str, int]] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0.0))
    flagged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0))
    kept: int = 0
    swallowed: int = 0
    done: int = 0
    checked_in_multiprecision: int = 0
    wrong: list[str] = field(default_factory=list)

    def beyond_all(self, name: str) -> int:
        """The number of points at which an output is off by more than 1 ulp."""
        return sum(count for (output, _), count in self.beyond.items() if output == name)

    def worst_octaves(self, decided: Mapping[str, Comparison], most: int = 3) -> list[Region]:
        """Per output, the octaves with the largest errors among the points decided."""
        found = []
        for name, c in decided.items():
            octaves = c.x.astype(np.float32).view(np.uint32) // OCTAVE
            inside = np.isin(octaves, [o for n, o in self.beyond if n == name])
            order = np.argsort(-c.error, kind="stable")
            order = order[inside[order]]
            _, first = np.unique(octaves[order], return_index=True)
            for i in order[np.sort(first)[:most]]:
                start = int(octaves[i]) * OCTAVE
                low, high = sorted(_value(p) for p in (start, start + OCTAVE - 1))
                beyond = self.beyond[name, int(octaves[i])]
                found.append(Region(name, low, high, beyond, float(c.error[i]), float(c.x[i])))
        return found

    def reasons(self) -> list[str]:
        """Sentences about what was found broken, but for the points left to decide."""
        found = list(self.wrong)
        if self.swallowed:
            found.append(f"NaN in must give NaN out: not so at {self.swallowed:,} of its patterns")
        if self.open:
            found.append(
                f"fp64 cannot clear {sum(self.flagged.values()):,} points, of which {self.open:,} "
                "were not decided one by one"
            )
        return found

    @property
    def open(self) -> int:
        """Flagged points beyond those kept to be decided."""
        return sum(self.flagged.values()) - self.kept

    def words(self, wide: bool) -> str:
        """What was checked, and what decided."""
        whole = self.done == len(ALL)
        number = "all 4,294,967,296 bit patterns" if whole else f"{self.done:,} bit patterns"
        text = (
            f"{number}, against the same program compiled for fp64, whose error bound was taken at "
            f"{SAMPLES} points of each {BIN:,} patterns and widened {WIDER:g} times; "
            f"{self.checked_in_multiprecision:,} of its values compared with multi-precision"
        )
        if wide:
            text += (
                "; the fp32 kernel computes in fp64 itself, so that agreement of the two shows "
                "the rounding alone: for the formula stand the bound and multi-precision"
            )
        return text


@cache
def _deviate() -> Any:
    from integrand.kernels.c_build import library

    text = files("integrand.certificate").joinpath("deviation.c").read_text(encoding="utf-8")
    function = library(text).deviate
    function.argtypes = [*[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 7, ctypes.c_int]
    function.restype = None
    return function


def sweep(subject: Subject, truth: Truth, patterns: range, tell: Callable[[str], None]) -> Swept:
    """f and df of an fp32 subject at consecutive bit patterns.

    Raises:
        CertificationError: the patterns do not begin and end at multiples of 4096.
        BackendError: there is no C compiler.
        KeyboardInterrupt: stopped, with a sentence about what was seen until then.
    """
    if patterns.start % BLOCK or patterns.stop % BLOCK or patterns.step != 1:
        raise CertificationError(f"patterns must begin and end at multiples of {BLOCK}: {patterns}")
    deviate = _deviate()
    reference = _reference(truth)
    alone = subject.alone()
    tell(f"{subject.label} float32: bounds of fp64")
    swept = Swept(patterns)
    bounds, terms = _bins(truth, reference, patterns, swept)
    start = said = time.perf_counter()
    try:
        # whole chunks, so that none crosses an octave
        for first in (
            patterns.start,
            *range(patterns.start // CHUNK * CHUNK + CHUNK, patterns.stop, CHUNK),
        ):
            chunk = range(first, min(first // CHUNK * CHUNK + CHUNK, patterns.stop))
            _chunk(chunk, subject, alone, reference, deviate, bounds, terms, swept)
            now = time.perf_counter()
            if now - said > 5:
                said = now
                tell(_progress(subject, swept, now - start))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped, no certificate: {_progress(subject, swept, time.perf_counter() - start)}"
        ) from None
    return swept


def _reference(truth: Truth) -> Subject:
    """The fp64 kernel of the program; its parameters need no gradient, so that dx alone is made."""
    program = truth.declared
    register(program)
    params = {k: torch.tensor([v], dtype=torch.float64) for k, v in truth.values.items()}

    def call(x: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return apply(program, x, [values[k] for k in program.params], impl="c")

    return Subject("the fp64 kernel", "c", False, call, params, torch.device("cpu"), False)


def _progress(subject: Subject, swept: Swept, seconds: float) -> str:
    left = seconds * (len(swept.patterns) / max(swept.done, 1) - 1)
    flagged = sum(swept.flagged.values())
    return (
        f"{subject.label} float32: {swept.done:,} of {len(swept.patterns):,} inputs, worst f "
        f"{swept.worst['f']:.3g} ulp, df {swept.worst['df']:.3g} ulp, {flagged:,} left to decide, "
        f"{left:.0f} s to go"
    )


def _tensor(chunk: range) -> torch.Tensor:
    shift = 1 << 32 if chunk.start >= 1 << 31 else 0
    bits = torch.arange(chunk.start - shift, chunk.stop - shift, dtype=torch.int32)
    return bits.view(torch.float32)


def _value(pattern: int) -> float:
    return float(np.array([pattern], np.uint32).view(np.float32)[0])


def _chunk(
    chunk: range,
    subject: Subject,
    alone: Subject | None,
    reference: Subject,
    deviate: Any,
    bounds: Mapping[str, Array],
    terms: Mapping[str, Array],
    swept: Swept,
) -> None:
    x = _tensor(chunk)
    got = list(zip(_NAMES, subject.tensors(x), strict=True))
    if alone is not None and not torch.equal(dx := alone.tensors(x)[1], got[1][1]):
        got.append(("df", dx))
    swept.done += len(chunk)
    octave = chunk.start // OCTAVE
    if octave % 256 == 255:
        # infinities are judged on their own
        swept.swallowed += sum(int((~y[x.isnan()].isnan()).sum()) for _, y in got)
        return
    true = dict(zip(_NAMES, reference.tensors(x.double()), strict=True))
    for path, (name, y) in enumerate(got):
        y, v = y.contiguous(), true[name].contiguous()
        flags = np.zeros(len(chunk), np.uint8)
        blocks = np.empty(-(-len(chunk) // BLOCK), _RESULT)
        deviate(
            *(chunk.start, len(chunk), y.data_ptr(), v.data_ptr()),
            true["df"].data_ptr() if name == "f" else None,
            *(a.ctypes.data for a in (bounds[name], terms[name], flags, blocks)),
            torch.get_num_threads(),
        )
        # the second path to df is counted where it goes beyond the rule alone
        swept.beyond[name, octave] += int(blocks["beyond"].sum()) if path < 2 else 0
        swept.worst[name] = max(swept.worst[name], float(blocks["worst"].max()))
        flagged = int(blocks["flagged"].sum())
        swept.flagged[name] += flagged
        room = min(KEPT, MOST - swept.kept)
        places = np.flatnonzero(flags)[:: -(-flagged // room)] if flagged and room else []
        swept.kept += len(places)
        per_bin = np.split(blocks, range(BIN // BLOCK, len(blocks), BIN // BLOCK))
        worst = [b["at"][np.argmax(b["worst"])] for b in per_bin]
        swept.left.append(x.numpy()[[*places, *worst]])


def _bins(
    truth: Truth, reference: Subject, patterns: range, swept: Swept
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Per bin of patterns, an error bound of fp64 values and a lower bound of the largest term."""
    bounds = {name: np.full(len(ALL) // BIN, np.inf) for name in _NAMES}
    terms = {name: np.zeros(len(ALL) // BIN) for name in _NAMES}
    with np.errstate(all="ignore"):
        for bins in _finite_bins(patterns):
            steps = np.linspace(0, BIN - 1, SAMPLES).astype(np.int64)
            sampled = (bins[:, None] * BIN + steps).astype(np.uint32).view(np.float32)
            x = sampled.astype(np.float64)
            compiled = dict(zip(_NAMES, reference(torch.from_numpy(x)), strict=True))
            largest = truth.largest_terms(x, _NAMES)
            for name, (value, bound) in truth.fp64(x, _NAMES).items():
                bounds[name][bins] = WIDER * bound.max(axis=1)
                terms[name][bins] = 0.999 * np.nan_to_num(largest[name], nan=0.0).min(axis=1)
                off = np.abs(compiled[name] - value) > bound + bounds[name][bins][:, None]
                if off.any() and len(swept.wrong) < 5:
                    swept.wrong.append(
                        f"the fp64 kernel's {name} leaves its error bound at x = {x[off][0]:.9g}: "
                        f"{compiled[name][off][0]!r} where {value[off][0]!r} is known to "
                        f"{bound[off][0]:.2g}"
                    )
    _against_multiprecision(truth, reference, patterns, bounds, swept)
    return bounds, terms


def _finite_bins(patterns: range) -> Iterator[Array]:
    bins = np.arange(patterns.start // BIN, -(-patterns.stop // BIN))
    bins = bins[bins * BIN // OCTAVE % 256 != 255]
    yield from np.array_split(bins, -(-len(bins) // 512)) if len(bins) else ()


def _against_multiprecision(
    truth: Truth, reference: Subject, patterns: range, bounds: Mapping[str, Array], swept: Swept
) -> None:
    chosen = np.linspace(patterns.start, patterns.stop - 1, REFERENCE).astype(np.int64)
    # odd steps, so that significands vary
    chosen = np.unique(np.minimum(chosen | 1, patterns.stop - 1))
    with np.errstate(invalid="ignore"):
        x = chosen.astype(np.uint32).view(np.float32).astype(np.float64)
    chosen, x = chosen[np.isfinite(x)], x[np.isfinite(x)]
    compiled = dict(zip(_NAMES, reference(torch.from_numpy(x)), strict=True))
    for name in _NAMES:
        for pattern, point, got in zip(chosen, x, compiled[name], strict=True):
            bound = bounds[name][pattern // BIN]
            if not (np.isfinite(got) and np.isfinite(bound)):
                continue
            swept.checked_in_multiprecision += 1
            exact = truth.run(name, float(point))
            if abs(exact - float(got)) > bound and len(swept.wrong) < 5:
                swept.wrong.append(
                    f"the fp64 kernel's {name} is off by more than {bound:.2g} at x = {point:.9g}: "
                    f"{float(got)!r}, exact {float(exact)!r}"
                )


def finite_below(patterns: range, limit: float) -> int:
    """The number of patterns with |x| < limit."""
    end = int(np.array([limit], np.float32).view(np.uint32)[0])
    halves = (range(end), range(1 << 31, (1 << 31) + end))
    return sum(max(0, min(h.stop, patterns.stop) - max(h.start, patterns.start)) for h in halves)
