"""Two gloo processes: a run on many ranks is the run of one process."""

import dataclasses
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed import HashStore
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from integrand.errors import Error
from integrand.models import DecoderConfig
from integrand.train import DataConfig, TokenData, TrainConfig, load_run, train
from integrand.train.distributed import Ranks, whole
from integrand.train.files import read_metrics

MODEL = DecoderConfig(
    vocab_size=64, d_model=16, d_hidden=24, layers=2, heads=2, kv_heads=1, gated=False, tied=True
)
CONFIG = TrainConfig(
    model=MODEL, activation="xielu", data=DataConfig(vocab_size=64), steps=20, batch_size=8,
    context=16, lr=1e-2, warmup_steps=4, decay_steps=8, eval_every=5, checkpoint_every=5,
    eval_sequences=8, adam_eps=1e-4, device="cpu",
)  # fmt: skip


def tokens() -> TokenData:
    """A walk that a model learns quickly."""
    steps = np.random.default_rng(0).integers(1, 4, 2000)
    walk = (np.cumsum(steps) % 64).astype(np.uint16)
    header = {"sha256": "walk", "separator": 0}
    return TokenData([walk[:1600]], [walk[1600:]], np.ones(64, int), header, Path())


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


def near(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return all(near(found[name], value) for name, value in expected.items())
    return found == pytest.approx(expected, abs=1e-5)


def close(one: Path, many: Path) -> None:
    """The rows of a run of one process and of one of many."""
    for kind, count in (("train", 20), ("held_out", 5), ("activation", 5)):
        expected, found = rows(one, kind), rows(many, kind)
        assert len(expected) == len(found) == count
        for before, after in zip(expected, found, strict=True):
            assert before.keys() == after.keys()
            for key, value in before.items():
                assert near(after[key], value), (kind, key, before, after)


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
    is_the_run_of_one_process("ddp", accumulate=2, mask_documents=True)


def fsdp(mesh: DeviceMesh) -> None:
    # the last of the held-out rows leaves one rank without any
    is_the_run_of_one_process("fsdp", accumulate=2, eval_sequences=5)


def muon_sees_whole_matrices(mesh: DeviceMesh) -> None:
    start, gradient = torch.randn(2, 16, 24)
    moved = []
    for p in (start.clone(), distribute_tensor(start.clone(), mesh, [Shard(0)])):
        p = torch.nn.Parameter(p)
        p.grad = gradient if not moved else distribute_tensor(gradient, mesh, [Shard(0)])
        torch.optim.Muon([p], lr=1.0, weight_decay=0.0).step()
        moved.append(whole(p.detach()) - start)
    # the iteration is done in bf16, whose roundings (2^-9) five steps of slope 3.4 let grow
    torch.testing.assert_close(*moved, atol=2**-9 * 3.4445**2, rtol=0)
    assert torch.linalg.matrix_norm(moved[1], 2) < 1.5


def no_rank_waits_for_a_first_that_failed(mesh: DeviceMesh) -> None:
    ranks = Ranks(mesh.get_local_rank(), 2, "ddp")

    def fail() -> None:
        raise MemoryError("full")

    expected, words = (MemoryError, "full") if ranks.first else (Error, "MemoryError: full")
    with pytest.raises(expected, match=words):
        ranks.after_first(fail if ranks.first else lambda: None)


def ranks_stop_together_and_fewer_go_on(mesh: DeviceMesh) -> None:
    one, many = Path(tempfile.mkdtemp()), shared_folder()
    run(one)

    def interrupt(step: int, loss: float) -> None:
        if step == 7 and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="after step 8"):
        run(many, interrupt, parallel="fsdp")
    distributed.barrier()
    assert [path.name for path in (many / "checkpoints").iterdir()] == ["step-00000008"]
    rank = mesh.get_local_rank()
    distributed.destroy_process_group()
    if rank == 0:
        distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        steps: list[int] = []
        run(many, lambda step, _: steps.append(step), parallel="fsdp")
        assert steps[0] == 9
        close(one, many)
        distributed.destroy_process_group()
    distributed.init_process_group(
        "gloo", init_method=f"file://{many}/store", rank=rank, world_size=2
    )


NAMES = [
    check.__name__
    for check in (
        ddp,
        fsdp,
        muon_sees_whole_matrices,
        no_rank_waits_for_a_first_that_failed,
        ranks_stop_together_and_fewer_go_on,
    )
]


@pytest.fixture(scope="module")
def outcome(two_ranks):
    return two_ranks(__file__, NAMES)


@pytest.mark.parametrize("check", NAMES)
def test_on_two_ranks(check, outcome):
    assert not outcome[check], "\n".join(outcome[check])


def test_ranks_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Error, match="start it with torchrun"):
        run(tmp_path, parallel="ddp")
