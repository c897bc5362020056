"""Where skipping pays: from times that are known, and kept between processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from integrand.sparsity import break_even
from integrand.sparsity.break_even import BATCHES, Plan, Step, Timed, plan

H = 1000


def machine(
    dense: float, ours: float, start: float, slope: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[int, int | None], Callable[[], object]], list[tuple[int, int | None]]]:
    """Calls that take a known time, by a clock of their own, and a list of what was called."""
    now = [0.0]
    asked: list[tuple[int, int | None]] = []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def timed(batch: int, n: int | None) -> Callable[[], object]:
        asked.append((batch, n))
        seconds = dense if n is None else ours if n == H else start + slope * n

        def call() -> None:
            now[0] += seconds

        return call

    return timed, asked


def steps(identity: tuple[str], h: int, timed: Timed, anew: bool = False) -> Plan:
    return plan(identity, h, timed, lambda: timed(0, None), anew)[0]


def test_the_break_even_is_where_the_line_meets_the_faster_dense_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed, _ = machine(5e-3, 4e-3, 1e-3, 4e-6, monkeypatch)
    found = steps(("meets",), H, timed)
    # 1e-3 + 4e-6 n = 0.85 * 4e-3
    assert [s.batch for s in found] == list(BATCHES)
    assert all(s.own and abs(s.most - 600) <= 1 for s in found)


def test_torchs_dense_path_is_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, _ = machine(2e-3, 4e-3, 1e-3, 4e-6, monkeypatch)
    assert all(not s.own and abs(s.most - 175) <= 1 for s in steps(("torch",), H, timed))


def test_the_line_is_drawn_to_where_most_neurons_are_active(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed, _ = machine(5e-3, 4e-3, 1e-3, 2e-6, monkeypatch)

    def kinked(batch: int, n: int | None) -> Callable[[], object]:
        # beyond one half a neuron costs five times as much
        return timed(batch, n + 4 * (n - H // 2) if n is not None and H // 2 < n < H else n)

    # 1.124 ms at 62, 5.75 ms at 875: 0.85 * 4 ms is met at 462, and by the first half at 999
    assert all(abs(s.most - 462) <= 1 for s in steps(("kinked",), H, kinked))


def test_nothing_is_skipped_where_skipping_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, _ = machine(1e-3, 2e-3, 9e-4, 4e-6, monkeypatch)
    assert steps(("never",), H, timed) == tuple(Step(b, False, 0) for b in BATCHES)


def test_a_block_that_was_as_fast_before_its_weights_were_laid_anew_is_not_beaten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch's product with laid weights is the slow one
    timed, _ = machine(9e-3, 2e-3, 1e-3, 1e-5, monkeypatch)
    found, beaten = plan(("before",), H, timed, lambda: timed(0, 10))
    # before: 1.1 ms, of which 0.85 times lies below the line; only of batch 1 it is known
    assert not beaten and found[0].own and found[0].most == 0 and found[1].most > 0


def test_a_hopeless_path_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, asked = machine(1.0, 1e-3, 1e-4, 1e-6, monkeypatch)
    steps(("hopeless",), H, timed)
    assert [batch for batch, n in asked if n is None] == [0, 1]


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, asked = machine(5e-3, 4e-3, 1e-3, 4e-6, monkeypatch)
    first = steps(("kept",), H, timed)
    count = len(asked)
    assert steps(("kept",), H, timed) == first and len(asked) == count
    steps(("another",), H, timed)
    assert len(asked) == 2 * count
    monkeypatch.setattr(break_even, "processor", lambda: "another")
    steps(("kept",), H, timed)
    assert len(asked) == 3 * count
    monkeypatch.setattr(break_even, "HIGH", 3 / 4)
    steps(("kept",), H, timed)
    assert len(asked) == 4 * count


def test_measuring_anew_replaces_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, _ = machine(1e-3, 2e-3, 9e-4, 4e-6, monkeypatch)
    misled = steps(("noisy",), H, timed)
    timed, _ = machine(5e-3, 4e-3, 1e-3, 4e-6, monkeypatch)
    assert steps(("noisy",), H, timed) == misled
    again = steps(("noisy",), H, timed, anew=True)
    assert again != misled and steps(("noisy",), H, timed) == again


def test_a_busy_machine_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, asked = machine(5e-3, 4e-3, 1e-3, 4e-6, monkeypatch)
    runs = [0]

    def busy(batch: int, n: int | None) -> Callable[[], object]:
        call = timed(batch, n)

        def slow() -> None:
            # something else runs during every run but one
            runs[0] += 1
            for _ in range(1 if runs[0] % 9 == 2 else 2):
                call()

        return slow

    steps(("busy",), H, busy)
    count = len(asked)
    quiet = steps(("busy",), H, timed)
    assert len(asked) == 2 * count
    steps(("busy",), H, timed)
    assert len(asked) == 2 * count and all(abs(s.most - 600) <= 1 for s in quiet)


def test_a_machine_that_is_never_quiet_is_measured_thrice(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, asked = machine(5e-3, 4e-3, 1e-3, 4e-6, monkeypatch)
    steps(("quiet",), H, timed)
    count = len(asked)
    monkeypatch.setattr(break_even, "_seconds", _disturbed(break_even._seconds))
    plans = [steps(("never quiet",), H, timed) for _ in range(5)]
    # the disturbance was elsewhere in each measurement: the shortest times are the true ones
    assert len(asked) == 4 * count and plans[2:] == plans[2:3] * 3
    assert all(abs(s.most - 600) <= 1 for s in plans[2])
    assert not any(abs(s.most - 600) <= 1 for s in plans[0])


def _disturbed(seconds: Callable[..., tuple[list[float], bool]]) -> Callable[..., object]:
    calls = [0]

    def found(calls_of: list[Callable[[], object]]) -> tuple[list[float], bool]:
        row, _ = seconds(calls_of)
        late = (calls[0] // (1 + len(BATCHES))) % len(row)
        calls[0] += 1
        return [s * (3 if k == late else 1) for k, s in enumerate(row)], False

    return found
