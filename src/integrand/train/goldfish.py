"""Goldfish loss: labels that a hash of the text leaves out, so that it is not learnt by heart.

arXiv:2406.10209. Whether a label counts is decided by the h tokens that end with it: a passage that
is seen many times has the same gaps each time. The published hash, the product of the ids in int64
modulo a table's size, is 0 for most windows of 64 tokens and more (63 even ids suffice) and the
same for every order of the same ids; `legacy` keeps it, bit by bit, for comparison.
"""

from functools import cache

import torch
from torch import Tensor

TABLE_SIZE = 1_000_003
TABLE_SEED = 2_971_215_073
# splitmix64: its increment and, as int64, the two factors of its finaliser
INCREMENT = 0x9E3779B97F4A7C15
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
# odd, and so is (LEFT + 1) / 2: where both halves are equal one bit is lost, not more
LEFT = 0xD1342543DE82EF95 - 2**64


def goldfish(
    tokens_BT: Tensor, documents_BT: Tensor, k: int, context: int, seed: int = 0
) -> Tensor:
    """True where a token is left out as a label, (B, T): for one window in k.

    The window is the `context` tokens that end with the label, all of them in its row and in its
    document: the first context - 1 tokens of either are never left out. Equal windows share their
    fate, on any machine and in any batch; a document of one id repeated is left out whole, from
    there on, or not at all.
    """
    out = torch.zeros_like(tokens_BT, dtype=torch.bool)
    first = context - 1
    if first < tokens_BT.shape[1]:
        chosen = _shifted(window_hash(tokens_BT, context, seed), 1) < 2**63 // k
        whole = documents_BT[:, first:] == documents_BT[:, : tokens_BT.shape[1] - first]
        out[:, first:] = chosen & whole
    return out


def window_hash(tokens_BT: Tensor, context: int, seed: int = 0) -> Tensor:
    """64-bit hashes of all windows of `context` tokens, (B, T - context + 1), as int64.

    A hash of 2m tokens mixes those of its halves, and a window is the blocks of the binary digits
    of its length, so the cost is 2 log2(context) passes. Every node goes through the finaliser of
    splitmix64, a bijection in which each bit reaches each: no products or powers survive to
    overflow. Integers wrap modulo 2^64 alike on all devices.
    """
    length = tokens_BT.shape[1]
    key = int(_finalised(torch.tensor(_signed((seed + 1) * INCREMENT))))
    block = _finalised(tokens_BT.long() + key)  # of the `size` tokens from each position on
    size = 1
    window, covered = None, 0
    while True:
        if context & size:
            covered += size
            block_after = block[:, covered - size : length - size + 1]
            window = (
                block_after
                if window is None
                else _joined(window[:, : length - covered + 1], block_after)
            )
        if 2 * size > context:
            break
        block = _joined(block[:, :-size], block[:, size:])
        size *= 2
    assert window is not None
    return window


def legacy(labels_BT: Tensor, k: int, context: int) -> Tensor:
    """True where the published code leaves a label out, (B, T); it knows no documents."""
    out = torch.zeros_like(labels_BT, dtype=torch.bool)
    if context <= labels_BT.shape[1]:
        products = labels_BT.long().unfold(1, context, 1).prod(-1)
        out[:, context - 1 :] = _table().to(labels_BT.device)[products % TABLE_SIZE] < 1 / k
    return out


@cache
def _table() -> Tensor:
    return torch.rand(TABLE_SIZE, generator=torch.Generator().manual_seed(TABLE_SEED))


def _joined(left: Tensor, right: Tensor) -> Tensor:
    return _finalised(left * LEFT + right)


def _finalised(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * FACTORS[0]
    x = (x ^ _shifted(x, 27)) * FACTORS[1]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits with zeros coming in: torch's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63
