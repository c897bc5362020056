"""Two gloo processes: a run on many ranks is the run of one process."""

import dataclasses
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh

from integrand.errors import DataError, Error
from integrand.models import DecoderConfig
from integrand.train import DataConfig, TokenData, TrainConfig, load_run, train
from integrand.train.files import read_metrics

MODEL = DecoderConfig(
    vocab_size=64, d_model=16, d_hidden=24, layers=2, heads=2, kv_heads=1, gated=False, tied=True
)
CONFIG = TrainConfig(
    model=MODEL, activation="xielu", data=DataConfig(vocab_size=64), steps=20, batch_size=8,
    context=16, lr=1e-2, warmup_steps=4, decay_steps=8, eval_every=5, checkpoint_every=5,
    eval_sequences=8, adam_eps=1e-4, device="cpu",
)  # fmt: skip


class Stop(Exception):
    pass


def tokens() -> TokenData:
    """A walk that a model learns quickly."""
    steps = np.random.default_rng(0).integers(1, 4, 2000)
    walk = (np.cumsum(steps) % 64).astype(np.uint16)
    return TokenData([walk[:1600]], [walk[1600:]], np.ones(64, int), {"sha256": "walk"}, Path())


def shared_folder() -> Path:
    box = [tempfile.mkdtemp() if distributed.get_rank() == 0 else ""]
    distributed.broadcast_object_list(box)
    return Path(box[0])


def run(folder: Path, on_step: Any = None, **changes: Any) -> dict[str, Any]:
    config = dataclasses.replace(CONFIG, **changes)
    return train(config, folder, tokens=tokens(), quiet=True, on_step=on_step)


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    distributed.barrier()  # the first rank has written them
    found = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == kind]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def close(one: Path, many: Path, tolerance: float = 1e-5) -> None:
    """The rows of a run of one process and of one of many."""
    for kind, count in (("train", 20), ("held_out", 5), ("activation", 5)):
        expected, found = rows(one, kind), rows(many, kind)
        assert len(expected) == len(found) == count
        for before, after in zip(expected, found, strict=True):
            assert before.keys() == after.keys()
            for key, value in before.items():
                if key == "values":
                    assert {k: pytest.approx(v, abs=tolerance) for k, v in value.items()} == after[
                        key
                    ]
                else:
                    assert after[key] == pytest.approx(value, abs=tolerance), (kind, key, before)


def is_the_run_of_one_process(parallel: str, **changes: Any) -> None:
    one, many = Path(tempfile.mkdtemp()), shared_folder()
    alone = run(one, **changes)
    assert alone["activation_values"]["alpha_p"][0] != pytest.approx(0.8, abs=1e-2)
    record = run(many, parallel=parallel, **changes)
    close(one, many)
    for key in ("batches_sha256", "parameters", "tokens"):
        assert record[key] == alone[key]
    expected, found = load_run(one).state_dict(), load_run(many).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=name)


def ddp(mesh: DeviceMesh) -> None:
    is_the_run_of_one_process("ddp")
    is_the_run_of_one_process("ddp", accumulate=2)


def fsdp(mesh: DeviceMesh) -> None:
    is_the_run_of_one_process("fsdp")
    is_the_run_of_one_process("fsdp", accumulate=2)


NAMES = [f.__name__ for f in (ddp, fsdp)]


@pytest.fixture(scope="module")
def outcome(two_ranks):
    return two_ranks(__file__, NAMES)


@pytest.mark.parametrize("check", NAMES)
def test_on_two_ranks(check, outcome):
    assert not outcome[check], "\n".join(outcome[check])
