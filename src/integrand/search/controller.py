"""A recurrent network that takes the decisions of a space one after the other and is trained by
policy gradient: PPO with a clipped ratio, and a moving average of the rewards as its baseline.
After every update it imitates the best that it has met, for a policy alone forgets them.

Source: arXiv:1710.05941 (the controller predicts one component at a time and is fed its own
prediction; trained by PPO, arXiv:1707.06347), arXiv:1801.03526 (policy gradient and likelihood of a
queue of the best together). Ours: sizes and rates, and the reward, from the order of all candidates
told so far, and that it does not repeat itself.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from integrand.search.candidate import Candidate, Genome, Space
from integrand.search.strategy import Standing, first_admitted

Decision = tuple[int, int, int]  # first token of the kind, number of options, option taken
_HEATS = tuple(1.1**k for k in range(60))  # the last one is chance


class _Policy(nn.Module):
    """Logits of every option of every kind, from the decisions so far."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens + 1, hidden)  # the last token starts a sequence
        self.cell = nn.GRU(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, tokens)
        # the first policy is chance
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, state = self.cell(self.embed(tokens), state)
        return self.head(hidden), state


class Controller:
    """Args:
    batch: candidates between two updates.
    hidden, rate: width of the network, and its learning rate (Adam).
    entropy: weight of the policy's entropy in the loss: keeps it from settling too soon.
    clip, epochs: of PPO; imitation takes as many epochs.
    best, imitation: how many candidates are imitated, and the weight of their likelihood.
    decay: of the moving averages of the rewards and of their spread.
    """

    def __init__(
        self, space: Space, seed: int = 0, *, batch: int = 12, hidden: int = 48, rate: float = 5e-3,
        entropy: float = 0.06, clip: float = 0.2, epochs: int = 6, decay: float = 0.8,
        best: int = 10, imitation: float = 0.3,
    ) -> None:  # fmt: skip
        self.space, self.rng = space, np.random.default_rng(seed)
        self.batch, self.entropy, self.clip, self.epochs = batch, entropy, clip, epochs
        self.decay, self.best, self.imitation = decay, best, imitation
        counts = list(space.kinds.values())
        self.first = dict(zip(space.kinds, np.cumsum([0, *counts]).tolist(), strict=False))
        self.start = sum(counts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = _Policy(self.start, hidden)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=rate)
        self.baseline: float | None = None
        self.spread = 0.0
        self.told: list[tuple[list[Decision], Standing | None]] = []
        self.order: list[Standing] = []
        # options by standing: equivalents do equally well, and count once
        self.queue: dict[Standing, tuple[int, ...]] = {}
        self.known: set[tuple[int, ...]] = set()
        self.heats = _HEATS

    def ask(self) -> Candidate:
        options: list[int] = []

        def propose() -> tuple[Genome, tuple[str, ...], str]:
            # what it is sure of has been tried: the policy is heated until it says something new
            for heat in self.heats:
                options[:] = []
                genome = self.space.build(self._chooser(options, heat))
                if tuple(options) not in self.known:
                    break
            else:
                self.heats = _HEATS[-1:]  # next to nothing is left
            return genome, (), "new"

        return replace(first_admitted(self.space, propose), options=tuple(options))

    def _chooser(self, taken: list[int], heat: float) -> Any:
        token, state = self.start, None

        def choose(kind: str, options: int) -> int:
            nonlocal token, state
            first = self.first[kind]
            with torch.no_grad():
                logits, state = self.policy(torch.tensor([[token]]), state)
                some = logits[0, 0, first : first + options].double() / heat
            chances = torch.softmax(some, 0).numpy()
            option = int(self.rng.choice(options, p=chances / chances.sum()))
            taken.append(option)
            token = first + option
            return option

        return choose

    def tell(self, candidate: Candidate, standing: Standing | None) -> None:
        """Learns after every `batch`; candidates of other strategies are passed over."""
        if not candidate.options:
            return
        self.known.add(candidate.options)
        queue = {s: o for s, o in self.queue.items() if o != candidate.options}
        if standing is not None:
            insort(self.order, standing)
            queue[standing] = candidate.options
        self.queue = dict(sorted(queue.items())[: self.best])
        self.told.append((self._decisions(candidate.options), standing))
        if len(self.told) >= self.batch:
            self._update()
            self.told = []

    def _decisions(self, taken: tuple[int, ...]) -> list[Decision]:
        """What the options were chosen from: the space is built once more."""
        decisions: list[Decision] = []

        def choose(kind: str, options: int) -> int:
            decisions.append((self.first[kind], options, taken[len(decisions)]))
            return decisions[-1][-1]

        self.space.build(choose)
        return decisions

    def reseed(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def _update(self) -> None:
        """The reward is -ln of the share of standings told so far that are as good or better:
        whatever the scores, it tells the best from the good. 0 for the worst and the refused."""
        shares = [
            1.0 if s is None else bisect_right(self.order, s) / len(self.order)
            for _, s in self.told
        ]
        rewards = -np.log(shares)
        new = float(rewards.mean()), float(rewards.std())
        if self.baseline is None:
            self.baseline, self.spread = new
        else:
            d = self.decay
            self.baseline = d * self.baseline + (1 - d) * new[0]
            self.spread = d * self.spread + (1 - d) * new[1]
        gain = np.clip((rewards - self.baseline) / (self.spread + 1e-12), -3, 3)
        self._reinforce([d for d, _ in self.told], torch.tensor(gain))
        self._climb(
            [self._decisions(o) for o in self.queue.values()], lambda taken: self.imitation * taken
        )

    def _reinforce(self, sequences: list[list[Decision]], gain: Tensor) -> None:
        gain, clip = gain.float()[:, None], self.clip
        before: list[Tensor] = []

        def better(taken: Tensor) -> Tensor:
            before.append(taken.detach())
            ratio = torch.exp(taken - before[0])
            return torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)

        self._climb(sequences, better)

    def _climb(self, sequences: list[list[Decision]], merit: Callable[[Tensor], Tensor]) -> None:
        """Epochs of ascent on a merit of the log-likelihood of every decision, and on entropy."""
        if not sequences:
            return
        inputs, targets, allowed, mask = _padded(sequences, self.start)
        for _ in range(self.epochs):
            logits, _state = self.policy(inputs)
            logs = torch.log_softmax(logits.masked_fill(~allowed, -1e9), -1)
            taken = logs.gather(-1, targets[..., None])[..., 0]
            entropy = -(logs.exp() * logs).sum(-1)
            loss = -((merit(taken) + self.entropy * entropy) * mask).sum() / len(mask)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()


def _padded(sequences: list[list[Decision]], start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(inputs, targets, options allowed, which decisions are real), batch first."""
    longest = max(map(len, sequences))
    shape = (len(sequences), longest)
    inputs = torch.full(shape, start)
    targets = torch.zeros(shape, dtype=torch.long)
    allowed = torch.ones(*shape, start, dtype=torch.bool)
    mask = torch.zeros(shape)
    for i, decisions in enumerate(sequences):
        for t, (first, options, option) in enumerate(decisions):
            targets[i, t] = first + option
            allowed[i, t] = False
            allowed[i, t, first : first + options] = True
            mask[i, t] = 1.0
            if t + 1 < longest:
                inputs[i, t + 1] = first + option
    return inputs, targets, allowed, mask
