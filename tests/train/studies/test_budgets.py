import math

import pytest

from integrand.train.studies.budgets import NotMeasured, log_tokens_to, loss_at

SHORT = {"seed": 1, "tokens": 50, "loss": 3.1}
MAIN = {"seed": 1, "tokens": 100, "loss": 3.0}


def test_the_trained_budgets_give_their_own_losses():
    assert loss_at(SHORT, MAIN, 1.0) == 3.0
    assert loss_at(SHORT, MAIN, 0.5) == pytest.approx(3.1)


def test_tokens_to_a_loss_invert_the_loss_at_tokens():
    log_factor = log_tokens_to(SHORT, MAIN, 3.04)
    assert loss_at(SHORT, MAIN, math.exp(log_factor)) == pytest.approx(3.04)
    assert log_factor < 0  # a worse loss needs fewer tokens


def test_far_beyond_the_budgets_nothing_is_said():
    assert loss_at(SHORT, MAIN, 1.49) < 3.0
    for factor in (1.51, 0.3):
        with pytest.raises(NotMeasured, match="beyond the trained budgets"):
            loss_at(SHORT, MAIN, factor)
    with pytest.raises(NotMeasured, match=r"1\.5 times"):
        log_tokens_to(SHORT, MAIN, 0.0)


def test_a_loss_that_tokens_do_not_lower_is_reached_by_none():
    with pytest.raises(NotMeasured, match="did not lower"):
        log_tokens_to({**SHORT, "loss": 2.9}, MAIN, 3.1)
    with pytest.raises(NotMeasured, match="fewer tokens"):
        loss_at({**SHORT, "tokens": 100}, MAIN, 1.0)
