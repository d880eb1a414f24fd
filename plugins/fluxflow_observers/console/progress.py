"""Where a run stands and how fast it goes: what every kind of console shows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING

from attrs import Factory, define, evolve

from fluxflow_registry import Position

from .. import formatting as words
from ..batch_timer import Pace

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView

#: How many of the last logged values a figure is the mean of.
SMOOTHED = 20

#: The shortest stretch, in seconds, from which a pace is read.
STRETCH = 2.0


@define
class Bar:
    """Something that is done in batches: how many of how many, and the seconds that are left."""

    label: str
    done: int
    total: int
    left: float | None
    #: Whether that is a guess: what is to come later may be slower or faster.
    guessed: bool = False


@define
class Tracker:
    """The running figures of one run."""

    run: RunView
    #: Names by which metrics are shown, beside the short names that they have anyway.
    names: Mapping[str, str] = Factory(dict)
    position: Position = Factory(Position)
    step: StepView | None = None
    pace: Pace = Factory(lambda: Pace(window=STRETCH))
    recent: dict[str, deque[float]] = Factory(dict)
    latest: dict[str, float] = Factory(dict)
    began: float = 0.0
    began_at: int = 0

    def enter(self, step: StepView, position: Position) -> None:
        """Begin a step, or go on with one."""
        self.step, self.position = step, position
        self.pace = Pace(window=STRETCH)
        self.recent, self.latest = {}, {}
        self.began, self.began_at = perf_counter(), position.step_batch

    def log(self, metrics: Mapping[str, float]) -> None:
        """Take in the figures of one batch."""
        self.latest = dict(metrics)
        for name, value in metrics.items():
            if math.isfinite(value):
                self.recent.setdefault(name, deque(maxlen=SMOOTHED)).append(value)

    def smoothed(self) -> dict[str, float]:
        """The mean of each metric's last values; a metric that is not finite now is shown as it is."""
        return {
            name: math.fsum(self.recent[name]) / len(self.recent[name]) if math.isfinite(value) else value
            for name, value in self.latest.items()
        }

    def line(self, step: StepView, position: Position, metrics: Mapping[str, float]) -> str:
        """`[12:30:01] Step vae_gan (2/4) | Epoch 5/20 | Batch 127/500 | VAE: 0.0234 | 0.032s/batch`."""
        epoch, batch = words.placed(step, position)
        parts = [
            f"{clock()} {words.heading(step, len(self.run.steps))}",
            f"Epoch {epoch}/{words.planned(step, epoch)}",
            f"Batch {batch}/{step.batches}",
            *words.figures(metrics, self.names),
        ]
        if self.pace.seconds is not None:
            parts.append(words.pace(self.pace.seconds))
        return " | ".join(parts)

    def bars(self) -> list[Bar]:
        """Run, step and epoch, in batches; what later steps take is guessed from this one's pace."""
        step, position = self.step, self.position
        if step is None:
            return []
        epoch, batch = words.placed(step, position)
        epochs = words.planned(step, epoch)
        in_step = epochs * step.batches
        done = min(position.step_batch, in_step)
        before = sum(other.epochs * other.batches for other in self.run.steps[: step.index])
        after = sum(other.epochs * other.batches for other in self.run.steps[step.index + 1 :])
        each = self._seconds_per_batch()

        def bar(label: str, done: int, total: int) -> Bar:
            return Bar(label, done, total, None if each is None else (total - done) * each)

        return [
            evolve(bar(f"Run {self.run.name}", before + done, before + in_step + after), guessed=after > 0),
            bar(words.heading(step, len(self.run.steps)), done, in_step),
            bar(f"Epoch {epoch}/{epochs}", batch, step.batches),
        ]

    def _seconds_per_batch(self) -> float | None:
        """Since the step began here, evaluations and checkpoints included: what the rest will take."""
        done = self.position.step_batch - self.began_at
        return (perf_counter() - self.began) / done if done else None


def clock() -> str:
    """The time of day as `[HH:MM:SS]`."""
    return datetime.now().strftime("[%H:%M:%S]")
