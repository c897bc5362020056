"""How far df from the rounded output is off: the check before a backward may keep y alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from integrand.derivation.numeric import evaluate_with_bound
from integrand.derivation.program import Program
from integrand.kernels import reference

_HALF = (torch.bfloat16, torch.float16)
# of the sum of absolute terms, as every parameter gradient must be
_PARAMETER_ERROR = 1e-5


@dataclass(frozen=True)
class Verdict:
    """df and the partials from y = f(x) rounded to a dtype, against those of the exact x.

    bf16 and fp16: every finite input, 1 ulp allowed; fp32 and fp64: 65,536 patterns, 4 ulp.
    Errors are those of the reference with an incoming gradient of 1, at given parameter values.

    - `ok`: df within the allowance, no wrong sign, none infinite or nan, and `max_param_error`
      within 1e-5.
    - `max_ulp`, `worst_x`: the largest error of df in ulps and where; `wrong_signs`, `nonfinite`:
      numbers of inputs.
    - `low`, `high`: df is within the allowance for all |x| between them.
    - `share_off`, `max_error`: of 65,536 equally likely N(0, 1) inputs, the share with df off by
      more than the allowance, and the largest |error| of df.
    - `max_param_error`: on those inputs, the sum of the absolute errors of a partial's terms
      relative to the sum of the absolute terms; 0 without trainable parameters.
    """

    dtype: str
    ok: bool
    max_ulp: float
    worst_x: float
    wrong_signs: int
    nonfinite: int
    low: float
    high: float
    share_off: float
    max_error: float
    max_param_error: float

    def __str__(self) -> str:
        words = (
            f"f' from the rounded output is off by up to {self.max_ulp:.3g} ulp (at x ="
            f" {self.worst_x:.3g}); on N(0, 1) inputs it is outside the allowance for"
            f" {self.share_off:.2%}, off by at most {self.max_error:.2g}"
        )
        if self.wrong_signs or self.nonfinite:
            words += f"; {self.wrong_signs} wrong signs, {self.nonfinite} wrong inf or nan"
        if not self.ok and self.low < 1e-3:
            words += f"; within the allowance for {self.low:.2g} < |x| < {self.high:.4g}"
        if self.max_param_error:
            words += f"; terms of parameter gradients by {self.max_param_error:.1e}"
        return words


_VERDICTS: dict[tuple[Any, ...], Verdict] = {}


def verdict(
    program: Program, inverse: Program, dtype: torch.dtype, values: tuple[float, ...]
) -> Verdict:
    """The verdict at parameter values in the order of `program.params`; computed once."""
    key = (program.digest, inverse.digest, dtype, values)
    if key not in _VERDICTS:
        with torch.no_grad():
            _VERDICTS[key] = _verdict(program, inverse, dtype, values)
    return _VERDICTS[key]


def _verdict(
    program: Program, inverse: Program, dtype: torch.dtype, values: tuple[float, ...]
) -> Verdict:
    x, normal = _patterns(dtype), _normal(dtype)
    params = [torch.tensor([v], dtype=torch.float64).to(_wide(dtype)) for v in values]
    named = {k: float(p) for k, p in zip(program.params, params, strict=True)}
    allowed = 1.0 if dtype in _HALF else 4.0
    got, exact, error = _slopes(program, inverse, x, params, named)
    ulps = np.where(error == 0, 0.0, error / _spacing(exact, dtype))
    nonfinite = ~np.isfinite(got) & (np.abs(exact) <= torch.finfo(dtype).max / 2)
    ulps = np.where(nonfinite, np.inf, np.where(np.isfinite(got), ulps, 0.0))
    wrong = (got * exact < 0) & np.isfinite(got)
    n_got, n_exact, n_error = _slopes(program, inverse, normal, params, named)
    n_off = ~(n_error <= allowed * _spacing(n_exact, dtype)) | (n_got * n_exact < 0)
    partial = _partial_error(program, inverse, normal, params, named)
    worst = int(np.argmax(ulps))
    failing = np.abs(x.double().numpy()[(ulps > allowed) | wrong])
    return Verdict(
        dtype=str(dtype).removeprefix("torch."),
        ok=bool(ulps[worst] <= allowed and not wrong.any() and partial <= _PARAMETER_ERROR),
        max_ulp=float(ulps[worst]),
        worst_x=float(x[worst]),
        wrong_signs=int(wrong.sum()),
        nonfinite=int(nonfinite.sum()),
        low=float(np.max(failing, where=failing <= 1, initial=0.0)),
        high=float(np.min(failing, where=failing > 1, initial=np.inf)),
        share_off=float(n_off.mean()),
        max_error=float(n_error.max()),
        max_param_error=partial,
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _patterns(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a half-precision dtype, else 65,536 spread over all patterns."""
    count = torch.arange(-32768, 32768, dtype=torch.int64)
    if dtype in _HALF:
        x = count.to(torch.int16).view(dtype)
    elif dtype == torch.float32:
        x = ((count << 16) + 0x5A5B).to(torch.int32).view(dtype)
    else:
        x = ((count << 48) + 0x5A5B5A5B5A5B).view(dtype)
    return x[torch.isfinite(x)]


def _normal(dtype: torch.dtype) -> Tensor:
    """65,536 equally likely N(0, 1) inputs: its quantiles, rounded."""
    quantiles = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    return torch.special.ndtri(quantiles).to(dtype)


def _slopes(
    program: Program,
    inverse: Program,
    x: Tensor,
    params: list[Tensor],
    named: Mapping[str, float],
) -> tuple[Any, Any, Any]:
    """df from the rounded output, df exactly, and the error less what fp64 itself may be off."""
    y = reference.forward(program, x, params)
    got = reference.backward(inverse, y, torch.ones_like(y), params, [False] * len(params))[0]
    got = got.double().numpy()
    with np.errstate(all="ignore"):
        values, bounds = evaluate_with_bound(program, x.double().numpy(), named, ["df"])
        exact, bound = (np.broadcast_to(a, got.shape) for a in (values[0], bounds[0]))
        # a bound that knows nothing excuses nothing
        bound = np.where(bound <= 2.0**-20 * np.abs(exact), bound, 0.0)
        error = np.maximum(np.abs(got - exact) - bound, 0.0)
    return got, exact, np.nan_to_num(error, nan=np.inf, posinf=np.inf)


def _partial_error(
    program: Program,
    inverse: Program,
    x: Tensor,
    params: list[Tensor],
    named: Mapping[str, float],
) -> float:
    worst = 0.0
    y = reference.forward(program, x, params)
    for name in program.params:
        (got,) = reference.run(inverse, y, params, [f"d_{name}"])
        got = torch.as_tensor(got).double().expand(x.shape).numpy()
        if inverse.ops[inverse.outputs[f"d_{name}"]] == ("const", "0"):
            continue
        with np.errstate(all="ignore"):
            (exact,), _ = evaluate_with_bound(program, x.double().numpy(), named, [f"d_{name}"])
            exact = np.broadcast_to(exact, got.shape)
            ratio = np.abs(got - exact).sum() / max(np.abs(exact).sum(), 1e-300)
        worst = max(worst, float(np.nan_to_num(ratio, nan=np.inf)))
    return worst


def _spacing(value: Any, dtype: torch.dtype) -> Any:
    """The distance between neighbouring numbers of the dtype at a real value."""
    info = torch.finfo(dtype)
    lowest = int(np.log2(info.smallest_normal))
    finite = np.where(np.isfinite(value) & (value != 0), value, info.smallest_normal)
    exponent = np.maximum(np.frexp(finite)[1] - 1, lowest)
    return np.ldexp(info.eps, exponent)
