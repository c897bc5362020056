"""What a person at the terminal sees of a run, and how he stops it."""

import signal
import sys
import threading
import time
from collections import deque
from types import FrameType, TracebackType
from typing import Any


class ProgressLine:
    """Lines on stderr every few seconds: step, loss, speed, time left."""

    EVERY_SECONDS = 5.0
    RECENT = 12  # lines whose speed decides the time left: a machine that gets busy shows

    def __init__(
        self, label: str, first: int, steps: int, steps_after: int = 0, quiet: bool = False
    ) -> None:
        """`steps_after` steps of other runs follow this one; they count in the time left."""
        self.label = label
        self.steps = steps
        self.steps_after = steps_after
        self.quiet = quiet
        self._recent = deque([(time.monotonic(), first)], self.RECENT)

    def show(self, step: int, loss: float) -> None:
        now = time.monotonic()
        done = step == self.steps
        if self.quiet or (now - self._recent[-1][0] < self.EVERY_SECONDS and not done):
            return
        then, earlier = self._recent[0]
        rate = (step - earlier) / max(1e-9, now - then)
        self._recent.append((now, step))
        left = (self.steps - step + self.steps_after) / max(rate, 1e-9)
        print(
            f"{self.label}: step {step}/{self.steps}, loss {loss:.3f}, {rate:.1f} steps/s, "
            f"{clock(left)} left",
            file=sys.stderr,
            flush=True,
        )


class Interruption:
    """Within: the first Ctrl-C or SIGTERM sets `asked`, and the step in hand ends whole.

    A second acts at once.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}
        self._ours = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interruption":
        if self._ours:
            self._before = {each: signal.signal(each, self._ask) for each in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
