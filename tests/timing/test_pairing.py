from __future__ import annotations

import pytest

from integrand.timing import paired, ratio


def test_the_order_alternates_and_every_candidate_runs_in_every_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # every call advances the clock by its own cost, so that nothing depends on the machine
    clock, order = [0.0], []
    monkeypatch.setattr("integrand.timing.pairing.time.perf_counter", lambda: clock[0])

    def taking(name: str, seconds: float) -> object:
        def call() -> None:
            clock[0] += seconds
            order.append(name)

        return call

    seconds = paired({"a": taking("a", 0.125), "b": taking("b", 0.25)}, rounds=4, warmup=2)
    assert seconds == {"a": [0.125] * 4, "b": [0.25] * 4}
    # two warm-up calls and one to calibrate each, then rounds in alternating order
    assert "".join(order) == "aaabbb" + "ab" + "ba" + "ab" + "ba"


def test_short_calls_are_repeated_and_reported_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], [0]
    monkeypatch.setattr("integrand.timing.pairing.time.perf_counter", lambda: clock[0])

    def call() -> None:
        clock[0] += 1e-4
        calls[0] += 1

    seconds = paired({"a": call}, rounds=1, warmup=1)
    assert seconds["a"][0] == pytest.approx(1e-4)
    assert calls[0] == pytest.approx(22, abs=1)


def test_the_ratio_is_taken_round_by_round() -> None:
    # a slow spell in round 3 hits both and leaves the ratio alone
    middle, low, high = ratio([2.0, 2.0, 20.0, 2.2], [1.0, 1.0, 10.0, 1.0])
    assert middle == 2.0 and low == 2.0 and 2.0 < high <= 2.2


def test_an_interrupt_leaves_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paired({"a": call})


def test_a_slow_candidate_takes_part_in_the_first_rounds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("integrand.timing.pairing.time.perf_counter", lambda: clock[0])

    def taking(seconds: float) -> object:
        def call() -> None:
            clock[0] += seconds

        return call

    seconds = paired({"fast": taking(0.125), "slow": taking(1.0)}, rounds=5, warmup=3)
    assert len(seconds["fast"]) == 5 and seconds["slow"] == [1.0] * 3
    # one call to see that it is slow, then three rounds
    assert clock[0] == 0.125 * (3 + 1 + 5) + 1.0 * 4
    assert ratio(seconds["slow"], seconds["fast"])[0] == 8
