import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from integrand.errors import DataError, Error
from integrand.train.checkpoint import Progress, restore, save, save_weights
from integrand.train.distributed import Ranks

RANKS = [Ranks(), Ranks(parallel="ddp")]
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed.*:UserWarning")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def stepped() -> tuple[nn.Linear, list[torch.optim.Optimizer]]:
    model = nn.Linear(64, 64)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "name": "all"}])
    model(torch.ones(64)).sum().backward()
    optimizer.step()
    return model, [optimizer]


@pytest.mark.parametrize("ranks", RANKS, ids=["alone", "sharded"])
def test_a_full_disk_leaves_the_last_checkpoint_and_no_litter(ranks: Ranks, tmp_path: Path) -> None:
    model, optimizers = stepped()
    weights = model.weight.detach().clone()
    save(tmp_path, model, optimizers, Progress(step=1), ranks)
    optimizers[0].step()
    message = r"checkpoint of step 2, got: .*; make room and run again, it goes on from step-0+1$"
    with largest_file(1 << 13), pytest.raises(Error, match=message):
        save(tmp_path, model, optimizers, Progress(step=2), ranks)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert restore(tmp_path, model, optimizers, ranks).step == 1
    assert torch.equal(model.weight, weights)


def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("before")
    with largest_file(1 << 13), pytest.raises(Error, match="goes on from the last checkpoint"):
        save_weights(tmp_path / "model.safetensors", nn.Linear(64, 64))
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)


def test_only_the_metadata_that_was_saved_is_unpickled(tmp_path: Path) -> None:
    model, optimizers = stepped()
    save(tmp_path, model, optimizers, Progress(step=1), RANKS[1])
    metadata = tmp_path / "step-00000001/.metadata"
    metadata.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match=r"\.metadata must be the file"):
        restore(tmp_path, model, optimizers, RANKS[1])
    metadata.unlink()
    with pytest.raises(DataError, match=r"\.metadata must be the file"):
        restore(tmp_path, model, optimizers, RANKS[1])


def test_a_damaged_shard_is_one_sentence(tmp_path: Path) -> None:
    model, optimizers = stepped()
    save(tmp_path, model, optimizers, Progress(step=1), RANKS[1])
    for shard in tmp_path.glob("*/*.distcp"):
        shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"got: .* on rank 0; delete that folder and run again$"):
        restore(tmp_path, model, optimizers, RANKS[1])


@pytest.mark.parametrize("text", ['{"steps": 1}', "[]"])
def test_a_damaged_progress_is_one_sentence(text: str, tmp_path: Path) -> None:
    model, optimizers = stepped()
    save(tmp_path, model, optimizers, Progress(step=1))
    (tmp_path / "step-00000001/progress.json").write_text(text)
    with pytest.raises(DataError, match=r"progress\.json must say where the run stands"):
        restore(tmp_path, model, optimizers)


def test_the_name_is_on_the_disk_before_older_checkpoints_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizers = stepped()
    save(tmp_path, model, optimizers, Progress(step=1))
    seen: list[set[str]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        if os.path.sameopenfile(handle, folder):
            seen.append({path.name for path in tmp_path.iterdir()})
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    folder = os.open(tmp_path, os.O_RDONLY)
    save(tmp_path, model, optimizers, Progress(step=2))
    os.close(folder)
    assert seen == [{"step-00000001", "step-00000002"}]
