import numpy as np
import pytest
import torch
from torch import Tensor

from integrand.train.goldfish import TABLE_SIZE, goldfish, legacy, window_hash

VOCABULARY = 131_072
CONTEXTS = [1, 13, 50, 64, 100, 4096]


def ids(kind: str, count: int, seed: int = 0) -> Tensor:
    """A row of ids, uniform or with Zipf's law over a random order of the vocabulary."""
    draw = np.random.default_rng(seed)
    if kind == "uniform":
        return torch.from_numpy(draw.integers(VOCABULARY, size=(1, count)))
    share = 1 / np.arange(1, VOCABULARY + 1)
    row = draw.choice(draw.permutation(VOCABULARY), size=(1, count), p=share / share.sum())
    return torch.from_numpy(row)


def one_document(tokens: Tensor) -> Tensor:
    return torch.zeros_like(tokens)


def scalar_hash(window: list[int], seed: int) -> int:
    """The definition, in Python's unbounded integers."""

    def finalised(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    def joined(left: int, right: int) -> int:
        return finalised((left * 0xD1342543DE82EF95 + right) % 2**64)

    key = finalised((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)

    def block(part: list[int]) -> int:
        if len(part) == 1:
            return finalised((part[0] + key) % 2**64)
        half = len(part) // 2
        return joined(block(part[:half]), block(part[half:]))

    blocks = []
    rest = window
    for size in (1 << bit for bit in range(len(window).bit_length()) if len(window) >> bit & 1):
        blocks.append(block(rest[:size]))
        rest = rest[size:]
    result = blocks[0]
    for each in blocks[1:]:
        result = joined(result, each)
    return result


@pytest.mark.parametrize("context", [1, 2, 3, 13, 50, 64, 100])
def test_hashes_are_those_of_the_definition(context: int) -> None:
    row = ids("zipf", 105)
    for seed in (0, 7):
        found = window_hash(row, context, seed)[0].tolist()
        starts = range(105 - context + 1)
        windows = [row[0, start : start + context].tolist() for start in starts]
        assert [h % 2**64 for h in found] == [scalar_hash(window, seed) for window in windows]
        out = goldfish(row, one_document(row), 10, context, seed)[0].tolist()
        chosen = [scalar_hash(window, seed) // 2 < 2**63 // 10 for window in windows]
        assert out == [False] * (context - 1) + chosen


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_one_distinct_window_in_k_is_left_out(context: int, kind: str) -> None:
    row = ids(kind, 40_000 + context)
    if context == 1:
        row = row.unique().unsqueeze(0)
    hashes = window_hash(row, context)
    assert len(hashes.unique()) == hashes.shape[1] == row.shape[1] - context + 1
    left_out = counted = seed = 0
    # 400,000 windows: the standard deviation of the rate is 0.5 % of it
    while counted < 400_000:
        left_out += int(goldfish(row, one_document(row), 10, context, seed).sum())
        counted += hashes.shape[1]
        seed += 1
    assert abs(left_out / counted * 10 - 1) < 0.02


def windows_of(kind: str, count: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    some = torch.randint(VOCABULARY, (count, 64), generator=draw)
    if kind == "even":
        return some // 2 * 2
    if kind == "multiples of 1024":
        return some // 1024 * 1024
    if kind == "constant":
        return torch.arange(count).unsqueeze(1).expand(count, 64)
    if kind == "two in turn":
        return some[:, :2].repeat(1, 32)
    if kind == "zeros but one":
        place = torch.arange(64) == torch.arange(count).unsqueeze(1) % 64
        return torch.where(place, 1 + torch.arange(count).unsqueeze(1), 0)
    return some.sort(dim=1).values


@pytest.mark.parametrize(
    "kind", ["even", "multiples of 1024", "constant", "two in turn", "zeros but one", "sorted"]
)
def test_no_class_of_windows_is_spared(kind: str) -> None:
    windows = windows_of(kind, 3000)
    assert len(window_hash(windows, 64).unique()) == len(windows)
    out = [goldfish(windows, one_document(windows), 4, 64, seed)[:, -1] for seed in range(4)]
    share = torch.stack(out).float().mean()
    # four standard deviations of a binomial draw
    assert abs(share * 4 - 1) < 4 * (3 / (4 * 3000)) ** 0.5


def test_order_counts() -> None:
    row = ids("uniform", 64)
    draw = torch.Generator().manual_seed(0)
    orders = torch.cat([row[:, torch.randperm(64, generator=draw)] for _ in range(500)])
    assert len(window_hash(orders, 64).unique()) == 500
    assert len(legacy(orders, 4, 64)[:, -1].unique()) == 1


def test_the_words_that_break_polynomial_hashes_differ() -> None:
    # Thue-Morse words: equal modulo 2^64 under any odd base from 2^11 letters on
    word = torch.tensor([[bin(place).count("1") % 2 for place in range(4096)]])
    assert not torch.equal(window_hash(word, 4096), window_hash(1 - word, 4096))
    assert len(window_hash(torch.cat((word, 1 - word), 1), 64).unique()) > 100


def test_a_repeated_id_is_left_out_whole_or_not_at_all() -> None:
    rows = torch.arange(200).unsqueeze(1).expand(200, 40)
    out = goldfish(rows, one_document(rows), 4, 13)
    assert not out[:, :12].any()
    assert (out[:, 12:].all(1) | ~out[:, 12:].any(1)).all()
    assert 0 < out[:, 12:].all(1).sum() < 200


def test_windows_stay_within_a_document_and_a_row() -> None:
    documents = [ids("uniform", length, seed=length) for length in (40, 9, 3, 30)]
    row = torch.cat(documents, 1)
    owners = torch.cat([torch.full_like(d, place) for place, d in enumerate(documents)], 1)
    out = goldfish(row, owners, 3, 10)
    alone = torch.cat([goldfish(d, one_document(d), 3, 10) for d in documents], 1)
    assert torch.equal(out, alone)
    assert out.any() and not out[:, :9].any() and not out[:, 40:61].any()


def test_equal_windows_share_their_fate_in_any_batch() -> None:
    rows = ids("zipf", 64 * 50).view(64, 50)
    owners = one_document(rows)
    whole = goldfish(rows, owners, 4, 13)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(goldfish(rows[order], owners, 4, 13), whole[order])
    moved = torch.cat((ids("zipf", 5 * 64, 1).view(64, 5), rows), 1)
    assert torch.equal(goldfish(moved, one_document(moved), 4, 13)[:, 17:], whole[:, 12:])


def test_legacy_is_the_published_rule() -> None:
    table = torch.rand(1_000_003, generator=torch.Generator().manual_seed(2_971_215_073))
    assert round(float(table[0]), 4) == 0.2337
    row = ids("uniform", 400)
    wanted = [False] * 12
    for start in range(400 - 12):
        product = 1
        for token in row[0, start : start + 13].tolist():
            product *= token
        signed = (product + 2**63) % 2**64 - 2**63
        wanted.append(bool(table[signed % TABLE_SIZE] < 1 / 20))
    assert legacy(row, 20, 13)[0].tolist() == wanted
    assert sum(wanted) > 5
    assert not legacy(row[:, :12], 20, 13).any()


def test_legacy_spares_most_long_windows() -> None:
    row = ids("uniform", 100_000)
    shares = {h: float(legacy(row, 50, h)[:, h - 1 :].float().mean()) for h in (13, 50, 64, 100)}
    # an id is divisible by 2 with chance 1/2, by 4 with 1/4 ...: a product of 64 of them has 2^64
    # in it for every second window, and place 0 of the table holds 0.23
    assert abs(shares[13] * 50 - 1) < 0.1
    assert 0.7 < shares[50] * 50 < 0.9
    assert 0.25 < shares[64] * 50 < 0.45
    assert shares[100] * 50 < 0.02
