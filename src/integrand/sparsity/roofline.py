"""What skipping can gain at batch 1, from bytes alone: a weight that is read costs its bytes.

With a the share of active neurons, a block that computes exactly reads

    plain  up, a of down                     2 / (1 + a)
    gated  gate, a of up, a of down          3 / (1 + 2 a)
    both   gate, a_gate of up, a of down     3 / (1 + a_gate + a)

times less than a dense one, and no exact method passes 2 or 3. Other weights of the model are read
anyway: with f of its bytes in these blocks it gains 1 / (1 - f + f / gain).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from integrand.errors import Error
from integrand.sparsity.feed_forward import FeedForward, Form, feed_forwards


def ceiling(form: Form, active: float, active_gate: float | None = None) -> float:
    """How many times fewer bytes a block reads; `active_gate` (default `active`) for 'both'."""
    for share in (active, active if active_gate is None else active_gate):
        if not 0 <= share <= 1:
            raise Error(f"a share of active neurons must lie in [0, 1], got {share}")
    if form == "plain":
        return 2 / (1 + active)
    gate = active_gate if form == "both" and active_gate is not None else active
    return 3 / (1 + gate + active)


@dataclass(frozen=True, slots=True)
class Roofline:
    """Bytes that one decoded token reads, and the ceilings of what skipping can gain."""

    feed_forward_bytes: int
    other_bytes: int
    active: float
    block: float
    model: float

    @property
    def share(self) -> float:
        return self.feed_forward_bytes / (self.feed_forward_bytes + self.other_bytes)

    def __str__(self) -> str:
        total = self.feed_forward_bytes + self.other_bytes
        return (
            f"a token reads {total / 2**20:.1f} MiB of weights, {self.share:.0%} of them in feed-"
            f"forward blocks; with {self.active:.1%} of neurons active a block is at most "
            f"{self.block:.2f} and the model {self.model:.2f} times as fast"
        )


def roofline(model: nn.Module, active: float, active_gate: float | None = None) -> Roofline:
    """The ceilings for `model` at batch 1, its key/value cache left out of account.

    Raises:
        Error: no feed-forward block is understood, or a share is out of range.
    """
    blocks = feed_forwards(model)
    inside = sum(_bytes(b) for b in blocks)
    seen = {id(p): p for p in model.parameters()}
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    # one row of a table is read; tied to the head, it is a matrix too and read whole
    heads = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    whole = sum(p.numel() * p.element_size() for p in seen.values())
    whole -= sum(t.numel() * t.element_size() for t in tables if id(t) not in heads)
    reads = sum(_bytes(b) / ceiling(b.form, active, active_gate) for b in blocks)
    return Roofline(
        inside, whole - inside, active, inside / reads, whole / (whole - inside + reads)
    )


def _bytes(block: FeedForward) -> int:
    return sum(m.weight.numel() * m.weight.element_size() for m in block.matrices() if m)
