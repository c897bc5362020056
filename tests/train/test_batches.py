import numpy as np
import pytest
import torch

from integrand.errors import DataError
from integrand.train.batches import Batches, Windows, running_hash


def test_windows_overlap_by_the_one_token_to_predict_and_stay_in_their_shard() -> None:
    windows = Windows([np.arange(10), np.arange(100, 107)], 3)
    assert len(windows) == 3 + 2
    assert windows.take(np.array([0, 2, 3, 4])).tolist() == [
        [0, 1, 2, 3],
        [6, 7, 8, 9],
        [100, 101, 102, 103],
        [103, 104, 105, 106],
    ]


def test_an_epoch_visits_every_window_once_and_the_next_in_another_order() -> None:
    windows = Windows([np.arange(61)], 5)
    batches = Batches(windows, 4, seed=0)
    starts = torch.cat([batches.at(step)[:, 0] for step in range(6)]).tolist()
    assert sorted(starts[:12]) == sorted(starts[12:]) == list(range(0, 60, 5))
    assert starts[:12] != starts[12:]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    windows = Windows([np.arange(1000)], 7)
    forward = Batches(windows, 4, seed=1)
    seen = [forward.at(step) for step in range(50)]
    assert torch.equal(Batches(windows, 4, seed=1).at(37), seen[37])
    assert not torch.equal(Batches(windows, 4, seed=2).at(37), seen[37])


def test_the_running_hash_knows_content_and_order() -> None:
    a, b = torch.arange(4), torch.arange(4, 8)
    assert running_hash(running_hash("", a), b) == running_hash(running_hash("", a), b)
    assert running_hash(running_hash("", a), b) != running_hash(running_hash("", b), a)
    assert running_hash("", a) != running_hash("", a + 1)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(DataError, match="at least one sequence of 17 tokens, got 16"):
        Windows([np.arange(16)], 16)
