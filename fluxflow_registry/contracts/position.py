"""The position of a run, and the history of what it logged."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

from attrs import Factory, define, evolve, frozen

#: How many of its last values a metric is smoothed over.
SMOOTHED = 20


@frozen
class Position:
    """The position of a run: integers, from which everything random is derived.

    `step` is the index of the step, `epoch` and `batch` count what is finished, `batch` within the
    epoch, `step_batch` within the step, `run_batch` within the run.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    step_batch: int = 0
    run_batch: int = 0

    def after_batch(self) -> Position:
        """The position after one more batch of the same epoch."""
        return evolve(self, batch=self.batch + 1, step_batch=self.step_batch + 1, run_batch=self.run_batch + 1)

    def before_batches(self, number: int) -> Position:
        """The position before the last batches of the same epoch."""
        run, step = self.run_batch - number, self.step_batch - number
        return evolve(self, batch=self.batch - number, step_batch=step, run_batch=run)


@frozen
class Summary:
    """One metric over one epoch: mean, minimum, maximum, and the mean of its last 20 logged values."""

    mean: float
    minimum: float
    maximum: float
    smoothed: float


@define
class RecentMeans:
    """The mean of each metric over its last 20 finite values."""

    values: dict[str, deque[float]] = Factory(dict)

    def add(self, name: str, value: float) -> None:
        """Record a value; one that is not finite is ignored."""
        if math.isfinite(value):
            self.values.setdefault(name, deque(maxlen=SMOOTHED)).append(value)

    def mean(self, name: str) -> float:
        """The mean of a metric; NaN if it has no finite value."""
        values = self.values.get(name)
        return sum(values) / len(values) if values else math.nan


#: For each metric, one Summary per epoch, oldest first.
History = Mapping[str, Sequence[Summary]]
