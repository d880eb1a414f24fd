"""The position of a run, and the history of what it logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve, frozen


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


@frozen
class Summary:
    """One metric over one epoch: mean, minimum, maximum, and the mean of its last 20 logged values."""

    mean: float
    minimum: float
    maximum: float
    smoothed: float


#: For each metric, one Summary per epoch, oldest first.
History = Mapping[str, Sequence[Summary]]
