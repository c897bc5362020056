"""What a swap says about every activation of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from integrand.models.swap_sites import Candidate, Survey
from integrand.nn.pointwise import Pointwise

Plans = dict[Candidate, tuple[Pointwise, tuple[str, ...]]]


@dataclass(frozen=True)
class Site:
    """One activation of the model, before and after.

    Attributes:
        name: qualified name; before, after: what it was and is, as text.
        kind: "gated", "plain", or "" outside feed-forward blocks.
        replaced: whether it was; reason: why not.
        carried: names of the parameters and buffers taken over from the old activation.
        shared: the other names of the same instance.
        caution: what training should know about the new one's parameters.
        residual: RMS(new - old) / RMS(old) before and after the warm start.
    """

    name: str
    before: str
    after: str
    kind: str = ""
    replaced: bool = True
    reason: str = ""
    carried: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    caution: str = ""
    residual: tuple[float, float] | None = None


def report(
    found: Survey, plans: Plans, residuals: dict[int, tuple[float, float]]
) -> tuple[Site, ...]:
    sites = []
    for c in found.candidates:
        kind = c.block.kind if c.block else ""
        before = describe(c.old)
        if c not in plans:
            sites.append(Site(c.name, before, before, kind, False, c.reason or "not in sites"))
            continue
        new, carried = plans[c]
        shared = tuple(o.name for o, (n, _) in plans.items() if n is new and o is not c)
        sites.append(
            Site(
                c.name,
                before,
                describe(new),
                kind,
                carried=carried,
                shared=shared,
                caution=_caution(new),
                residual=residuals.get(id(new)),
            )
        )
    return tuple(sites)


def describe(activation: Any) -> str:
    """A callable as one word or two: its class, its function, an integrand activation's name."""
    if getattr(type(activation), "is_integrand_activation", False):
        values = ", ".join(f"{k}={_short(v)}" for k, v in activation.values().items())
        return activation.spec.name + (f"({values})" if values else "")
    if isinstance(activation, nn.Module):
        extra = activation.extra_repr()
        return type(activation).__name__ + (f"({extra})" if extra else "")
    inner = getattr(activation, "func", activation)
    return getattr(inner, "__name__", type(inner).__name__)


def _caution(new: nn.Module) -> str:
    if torch.bfloat16 in {p.dtype for p in new.parameters()}:
        return "raw parameters in bf16: they move by 2^-8 steps"
    return ""


def _short(value: Tensor) -> str:
    return "meta" if value.is_meta else f"{value.detach().float().mean().item():.4g}"


def table(sites: Sequence[Site]) -> str:
    """The sites as lines of aligned columns."""
    rows = [("site", "before", "after", "block", "carried over", "note")]
    for s in sites:
        note = s.reason or (f"shared with {', '.join(s.shared)}" if s.shared else "")
        if s.caution:
            note += f"{'; ' if note else ''}{s.caution}"
        if s.residual:
            note += f"{'; ' if note else ''}residual {s.residual[0]:.3g} -> {s.residual[1]:.3g}"
        after = s.after if s.replaced else "kept"
        rows.append((s.name, s.before, after, s.kind, ", ".join(s.carried), note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
