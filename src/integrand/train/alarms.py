"""What goes wrong in a run, said while it goes wrong; nothing here changes the training."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from integrand.nn.groups import activation_modules
from integrand.nn.growth import GrowthMonitor
from integrand.train.files import MetricsLog

_log = logging.getLogger("integrand")


class Spikes:
    """Losses far above the median of the `WINDOW` before them.

    The limit is median + 6 s, s = 1.4826 * median absolute deviation: the standard deviation of
    normal noise, which 64 values give within 15 % (standard error). Of 2 million draws of normal
    noise 3 were above it, 39 above median + 5 s. A falling loss lies below the median and widens s.
    """

    WINDOW = 64
    DEVIATIONS = 6.0

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=self.WINDOW)
        self._above = False

    def add(self, loss: float) -> float | None:
        """The limit, where this loss is the first above it; the next ones belong to its spike."""
        limit = math.inf
        if len(self._losses) == self.WINDOW:
            median = statistics.median(self._losses)
            deviation = statistics.median(abs(value - median) for value in self._losses)
            limit = median + self.DEVIATIONS * 1.4826 * deviation
        begins = loss > limit and not self._above
        self._above = loss > limit
        self._losses.append(loss)
        return limit if begins else None


class Alarms:
    """Rows of kind `alarm` in a run's metrics, each with one warning through `logging`.

    `reason` is "spike" (loss above `limit`), "growth" (an activation's parameter past its limit,
    see GrowthMonitor) or "diverged" (loss or gradient norm not finite).
    """

    def __init__(self, model: nn.Module, label: str, speaks: bool = True) -> None:
        """Before a checkpoint is restored: growth is told from the values at the start.

        Of many ranks one `speaks`; the others only decide alike.
        """
        self._growth = GrowthMonitor(model) if activation_modules(model) else None
        self._spikes = Spikes()
        self._told: set[str] = set()
        self._label = label
        self._level = logging.WARNING if speaks else logging.DEBUG

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What the metrics of a stopped run already told."""
        for row in rows:
            if row["kind"] == "train":
                self._spikes.add(row["loss"])
            elif row["kind"] == "alarm" and row["reason"] == "growth":
                self._told.add(row["parameter"])
        if self._growth is not None:
            self._growth.load_state_dict({"start": {}, "warned": self._told})

    def spike(self, metrics: MetricsLog, step: int, loss: float) -> None:
        if (limit := self._spikes.add(loss)) is not None:
            metrics.add("alarm", step, reason="spike", loss=loss, limit=limit)
            _log.log(
                self._level,
                "%s: loss %.4g at step %d is a spike: above %.4g, six deviations over the median "
                "of the last %d",
                *(self._label, loss, step, limit, Spikes.WINDOW),
            )

    def growth(self, metrics: MetricsLog, step: int) -> None:
        """Once per parameter; where parameters are sharded every rank must call it."""
        for row in self._growth.check(step, self._level) if self._growth is not None else ():
            if row.exceeded and row.name not in self._told:
                self._told.add(row.name)
                found = {"parameter": row.name, "value": row.value, "limit": row.limit}
                metrics.add("alarm", step, reason="growth", **found)

    def diverged(self, metrics: MetricsLog, step: int, loss: float, norm: float) -> bool:
        """Whether loss or gradient norm is not finite: the run has nothing more to tell."""
        if math.isfinite(loss) and math.isfinite(norm):
            return False
        metrics.add("alarm", step, reason="diverged", loss=str(loss), grad_norm=str(norm))
        _log.log(self._level, "%s: %s", self._label, divergence(step))
        return True


def divergence(step: int) -> str:
    return f"diverged at step {step}: loss or gradient is not finite; lower lr or clip_norm"
