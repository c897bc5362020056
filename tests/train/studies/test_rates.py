import pytest

from integrand.errors import Error
from integrand.train.studies.rates import best_rate


def run(lr, loss, seed=100, arm="tune"):
    diverged = 7 if loss is None else None
    return {"arm": arm, "rung": "r", "variant": "v", "lr": lr, "seed": seed, "loss": loss,
            "diverged": diverged}  # fmt: skip


def test_the_rate_of_the_lowest_mean_loss_is_chosen():
    runs = [run(1e-3, 3.0), run(2e-3, 2.0), run(2e-3, 3.0, 101), run(4e-3, 2.9)]
    assert best_rate(runs, "r", "v") == (2e-3, False)
    assert best_rate(runs[1:], "r", "v") == (2e-3, True)


def test_one_diverged_seed_spoils_a_rate():
    runs = [run(1e-3, 3.0), run(2e-3, 1.0), run(2e-3, None, 101)]
    assert best_rate(runs, "r", "v") == (1e-3, True)


def test_other_arms_do_not_decide_and_nothing_is_no_choice():
    with pytest.raises(Error, match="no finished run"):
        best_rate([run(1e-3, 1.0, arm="main")], "r", "v")
    with pytest.raises(Error, match="diverged"):
        best_rate([run(1e-3, None)], "r", "v")
