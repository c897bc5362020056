"""Which tokens a step sees: a fixed order, the same for every variant, with a running hash."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from integrand.errors import DataError


class Windows:
    """The sequences of context + 1 tokens in a split, each inside one shard, by index."""

    def __init__(self, shards: list[np.ndarray], context: int) -> None:
        self.shards = shards
        self.context = context
        counts = [max(0, (len(shard) - 1) // context) for shard in shards]
        self.ends = np.cumsum(counts)
        if not counts or self.ends[-1] < 1:
            raise DataError(
                f"a split must hold at least one sequence of {context + 1} tokens, got "
                f"{sum(map(len, shards))} tokens; pass more text or shorten `context`"
            )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def take(self, indices: np.ndarray) -> Tensor:
        """Token ids (len(indices), context + 1), int64."""
        rows = np.empty((len(indices), self.context + 1), dtype=np.int64)
        for row, index in enumerate(indices):
            shard = int(np.searchsorted(self.ends, index, side="right"))
            first = int(self.ends[shard - 1]) if shard else 0
            start = (int(index) - first) * self.context
            rows[row] = self.shards[shard][start : start + self.context + 1]
        return torch.from_numpy(rows)


class Batches:
    """Batches by step number alone, so that a resumed run continues where it stopped.

    Every epoch visits all windows once, in a permutation drawn from (seed, epoch).
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def at(self, step: int) -> Tensor:
        """Token ids (batch_size, context + 1) of a step counted from 0."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        indices = [self._index(int(position)) for position in positions]
        return self.windows.take(np.array(indices))

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.windows))
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._order = generator.permutation(len(self.windows))
            self._epoch = epoch
        return int(self._order[place])


def running_hash(previous: str, batch: Tensor) -> str:
    """sha256(previous || tokens): one number that names every batch so far, in order."""
    return hashlib.sha256(previous.encode() + batch.numpy().tobytes()).hexdigest()
