import math

from integrand.train.schedule import wsd

SHAPE = {"steps": 100, "warmup_steps": 10, "decay_steps": 25}


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert [wsd(step, **SHAPE) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]


def test_stable_until_the_decay_starts() -> None:
    assert {wsd(step, **SHAPE) for step in range(9, 76)} == {1.0}


def test_decay_is_one_minus_the_root_and_reaches_zero() -> None:
    assert wsd(75 + 16, **SHAPE) == 1 - 4 / 5
    assert wsd(76, **SHAPE) == 1 - math.sqrt(1 / 25)
    assert wsd(100, **SHAPE) == 0.0


def test_no_warm_up_and_no_decay_is_constant() -> None:
    assert {wsd(s, steps=5, warmup_steps=0, decay_steps=0) for s in range(6)} == {1.0}
