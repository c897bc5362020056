"""A recurrent network that takes the decisions of a space one after the other and is trained by
policy gradient: PPO with a clipped ratio, and a moving average of the scores as its baseline.

Source: arXiv:1710.05941 (the controller predicts one component at a time and is fed its own
prediction; trained by PPO, arXiv:1707.06347). Ours: sizes and rates, and that a
candidate met before is not reinforced again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from integrand.search.candidate import Candidate, Genome, Space
from integrand.search.strategy import first_admitted

Decision = tuple[int, int, int]  # first token of the kind, number of options, option taken


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
    clip, epochs: of PPO.
    decay: of the moving averages of the scores and of their spread.
    """

    def __init__(
        self, space: Space, seed: int = 0, *, batch: int = 24, hidden: int = 48, rate: float = 5e-3,
        entropy: float = 0.06, clip: float = 0.2, epochs: int = 6, decay: float = 0.8,
    ) -> None:  # fmt: skip
        self.space, self.rng = space, np.random.default_rng(seed)
        self.batch, self.entropy, self.clip, self.epochs = batch, entropy, clip, epochs
        self.decay = decay
        counts = list(space.kinds.values())
        self.first = dict(zip(space.kinds, np.cumsum([0, *counts]).tolist(), strict=False))
        self.start = sum(counts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = _Policy(self.start, hidden)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=rate)
        self.baseline: float | None = None
        self.spread = 0.0
        self.worst: float | None = None
        self.told: list[tuple[list[Decision], float | None, bool]] = []
        self.known: set[str] = set()

    def ask(self) -> Candidate:
        options: list[int] = []

        def propose() -> tuple[Genome, tuple[str, ...], str]:
            options[:] = []
            return self.space.build(self._chooser(options)), (), "new"

        return replace(first_admitted(self.space, propose), options=tuple(options))

    def _chooser(self, taken: list[int]) -> Any:
        token, state = self.start, None

        def choose(kind: str, options: int) -> int:
            nonlocal token, state
            first = self.first[kind]
            with torch.no_grad():
                logits, state = self.policy(torch.tensor([[token]]), state)
                chances = torch.softmax(logits[0, 0, first : first + options].double(), 0).numpy()
            option = int(self.rng.choice(options, p=chances / chances.sum()))
            taken.append(option)
            token = first + option
            return option

        return choose

    def tell(self, candidate: Candidate, score: float | None) -> None:
        """Learns after every `batch` scores; a refused candidate counts as the worst so far.
        Candidates of other strategies are passed over."""
        if not candidate.options:
            return
        decisions = self._decisions(candidate)
        self.told.append((decisions, score, candidate.key in self.known))
        self.known.add(candidate.key)
        if len(self.told) >= self.batch:
            self._update()
            self.told = []

    def _decisions(self, candidate: Candidate) -> list[Decision]:
        """What its options were chosen from: the space is built once more."""
        decisions: list[Decision] = []

        def choose(kind: str, options: int) -> int:
            decisions.append((self.first[kind], options, candidate.options[len(decisions)]))
            return decisions[-1][-1]

        self.space.build(choose)
        return decisions

    def reseed(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def _update(self) -> None:
        good = [s for _, s, _ in self.told if s is not None]
        self.worst = max([*good, *([] if self.worst is None else [self.worst])], default=None)
        if self.worst is None:
            return
        scores = np.array([self.worst if s is None else s for _, s, _ in self.told])
        new = float(scores.mean()), float(scores.std())
        if self.baseline is None:
            self.baseline, self.spread = new
        else:
            d = self.decay
            self.baseline = d * self.baseline + (1 - d) * new[0]
            self.spread = d * self.spread + (1 - d) * new[1]
        gain = np.clip((self.baseline - scores) / (self.spread + 1e-12), -3, 3)
        # what was met before is not reinforced: the policy moves on from what it has found
        gain = np.where([again for _, _, again in self.told], np.minimum(gain, 0), gain)
        self._learn(_padded([d for d, _, _ in self.told], self.start), torch.tensor(gain))

    def _learn(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], gain: Tensor) -> None:
        inputs, targets, allowed, mask = batch
        gain = gain.float()[:, None]
        before: Tensor | None = None
        for _ in range(self.epochs):
            logits, _state = self.policy(inputs)
            logs = torch.log_softmax(logits.masked_fill(~allowed, -1e9), -1)
            taken = logs.gather(-1, targets[..., None])[..., 0]
            before = taken.detach() if before is None else before
            ratio = torch.exp(taken - before)
            better = torch.minimum(ratio * gain, ratio.clamp(1 - self.clip, 1 + self.clip) * gain)
            entropy = -(logs.exp() * logs).sum(-1)
            loss = -((better + self.entropy * entropy) * mask).sum() / len(mask)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def state(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save([self.policy.state_dict(), self.optimiser.state_dict()], buffer)
        return {
            "rng": self.rng.bit_generator.state,
            "network": base64.b64encode(buffer.getvalue()).decode(),
            "averages": [self.baseline, self.spread, self.worst],
            "told": self.told,
            "known": sorted(self.known),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        buffer = io.BytesIO(base64.b64decode(state["network"]))
        policy, optimiser = torch.load(buffer, weights_only=True)
        self.policy.load_state_dict(policy)
        self.optimiser.load_state_dict(optimiser)
        self.baseline, self.spread, self.worst = state["averages"]
        self.told = [([tuple(d) for d in ds], s, again) for ds, s, again in state["told"]]
        self.known = set(state["known"])


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
