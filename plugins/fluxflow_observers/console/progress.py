"""The progress of a run: what every kind of display shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING

from attrs import Factory, define, evolve, field

from fluxflow_registry import Position, RecentMeans

from ..batch_timer import BatchTimer
from ..formatting import batch_time, epoch_and_batch, epochs_of, heading, metric_values

if TYPE_CHECKING:
    from fluxflow_registry import RunView, StepView

#: The shortest stretch, in seconds, over which the time of a batch is measured.
STRETCH = 2.0


@define
class Bar:
    """Work that is done in batches: how many of how many, and the seconds that are left."""

    label: str
    done: int
    total: int
    left: float | None
    #: Whether that is an estimate: what comes later may be slower or faster.
    estimated: bool = False


# More than a dozen members: bars and lines are written from the same state.
@define
class Progress:
    """The position and the latest metrics of one run."""

    run: RunView
    #: Names for metrics, in addition to the short names.
    names: Mapping[str, str] = Factory(dict)
    position: Position = Factory(Position)
    step: StepView | None = None
    timer: BatchTimer = Factory(lambda: BatchTimer(window=STRETCH))
    recent: RecentMeans = Factory(RecentMeans)
    latest: dict[str, float] = Factory(dict)
    #: When, and after which batch of the step, this session entered the step.
    _entered_at: float = field(default=0.0, init=False)
    _entered_after: int = field(default=0, init=False)

    def enter(self, step: StepView, position: Position) -> None:
        """Start a step, or resume it."""
        self.step, self.position = step, position
        self.timer = BatchTimer(window=STRETCH)
        self.recent, self.latest = RecentMeans(), {}
        self._entered_at, self._entered_after = perf_counter(), position.step_batch

    def log(self, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one batch."""
        self.latest = dict(metrics)
        for name, value in metrics.items():
            self.recent.add(name, value)

    def smoothed(self) -> dict[str, float]:
        """The mean of each metric's last values; a metric that is not finite now is returned as it is."""
        return {name: self.recent.mean(name) if math.isfinite(value) else value for name, value in self.latest.items()}

    def line(self, step: StepView, position: Position, metrics: Mapping[str, float]) -> str:
        """`[12:30:01] Step vae_gan (2/4) | Epoch 5/20 | Batch 127/500 | VAE: 0.0234 | 0.032s/batch`."""
        epoch, batch = epoch_and_batch(step, position)
        parts = [
            f"{time_of_day()} {heading(step, len(self.run.steps))}",
            f"Epoch {epoch}/{epochs_of(step, epoch)}",
            f"Batch {batch}/{step.batches}",
            *self.parts(metrics),
        ]
        return " | ".join(parts)

    def parts(self, metrics: Mapping[str, float]) -> list[str]:
        """`name: value` for each metric, and the time of a batch."""
        seconds = self.timer.seconds
        return [*metric_values(metrics, self.names), *([] if seconds is None else [batch_time(seconds)])]

    def bars(self) -> list[Bar]:
        """Run, step and epoch, in batches; the time of later steps is estimated from this one's."""
        step, position = self.step, self.position
        if step is None:
            return []
        epoch, batch = epoch_and_batch(step, position)
        epochs = epochs_of(step, epoch)
        in_step = epochs * step.batches
        done = min(position.step_batch, in_step)
        before = sum(other.epochs * other.batches for other in self.run.steps[: step.index])
        after = sum(other.epochs * other.batches for other in self.run.steps[step.index + 1 :])
        seconds = self._seconds_per_batch()

        def bar(label: str, done: int, total: int) -> Bar:
            return Bar(label, done, total, None if seconds is None else (total - done) * seconds)

        return [
            evolve(bar(f"Run {self.run.name}", before + done, before + in_step + after), estimated=after > 0),
            bar(heading(step, len(self.run.steps)), done, in_step),
            bar(f"Epoch {epoch}/{epochs}", batch, step.batches),
        ]

    def _seconds_per_batch(self) -> float | None:
        """Since this session entered the step, with evaluations and checkpoints: the rest will take as long."""
        done = self.position.step_batch - self._entered_after
        return (perf_counter() - self._entered_at) / done if done else None


def time_of_day() -> str:
    """The time of day as `[HH:MM:SS]`."""
    return datetime.now().strftime("[%H:%M:%S]")
