"""The progress of a run, as bars that are redrawn on a terminal or as plain lines everywhere else."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING

from attrs import Factory, define, evolve, field

from fluxflow_registry import Position, RecentMeans

from ..formatting import batch_time, duration, epoch_and_batch, epochs_of, heading, metric_values
from ..terminal import is_live
from ..timing import BatchTimer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from fluxflow_registry import RunView, StepView

#: The shortest stretch, in seconds, over which the time of a batch is measured.
STRETCH = 2.0

#: Seconds between two redraws of the bars.
REFRESH = 0.2


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

    def line(self, step: StepView, position: Position, metrics: Mapping[str, float], what: str = "") -> str:
        """`[12:30:01] Step vae_gan (2/4) | Epoch 5/20 | Batch 127/500 | VAE: 0.0234 | 0.032s/batch`.

        `what` says of what the metrics are means, where they are not those of other lines.
        """
        epoch, batch = epoch_and_batch(step, position)
        parts = [
            f"{time_of_day()} {heading(step, len(self.run.steps))}",
            f"Epoch {epoch}/{epochs_of(step, epoch)}",
            f"Batch {batch}/{step.batches}",
            *filter(None, [what]),
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
        # Since this session entered the step, with evaluations and checkpoints: the rest will take as long.
        measured = position.step_batch - self._entered_after
        seconds = (perf_counter() - self._entered_at) / measured if measured else None

        def bar(label: str, done: int, total: int) -> Bar:
            return Bar(label, done, total, None if seconds is None else (total - done) * seconds)

        return [
            evolve(bar(f"Run {self.run.name}", before + done, before + in_step + after), estimated=after > 0),
            bar(heading(step, len(self.run.steps)), done, in_step),
            bar(f"Epoch {epoch}/{epochs}", batch, step.batches),
        ]


def time_of_day() -> str:
    """The time of day as `[HH:MM:SS]`."""
    return datetime.now().strftime("[%H:%M:%S]")


class PlainLines:
    """Displays messages, and the progress of a step from `begin` to `close`, as lines every `interval` seconds."""

    def __init__(self, console: Console, interval: float) -> None:
        self.console = console
        self.interval = interval

    def message(self, text: str, style: str = "") -> None:
        """Print a message that stays."""
        from rich.text import Text

        self.console.print(Text(text, style), soft_wrap=True)

    def begin(self, progress: Progress) -> None:
        """Start a step; lines need no preparation."""

    def update(self, progress: Progress) -> None:
        """Print a line, unless the end of the epoch is about to print one."""
        step, position = progress.step, progress.position
        if step is not None and position.batch != step.batches:
            self.message(progress.line(step, position, progress.smoothed()))

    def close(self) -> None:
        """Restore the terminal; may be called at any time, and repeatedly."""


class LiveBars(PlainLines):
    """Progress as three bars and the latest metrics, below the messages.

    The thread that trains redraws them a few times a second (1 ms each): another thread could hold a lock
    while loader processes are forked.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, REFRESH)
        self.live: Live | None = None

    def begin(self, progress: Progress) -> None:
        """Show the bars."""
        from rich.live import Live

        self.close()
        self.live = Live(
            render(progress),
            console=self.console,
            auto_refresh=False,
            transient=True,
            # What others print meanwhile goes above the bars; results in a pipe stay there.
            redirect_stdout=sys.stdout.isatty(),
        )
        self.live.start()

    def update(self, progress: Progress) -> None:
        """Redraw the bars."""
        if self.live is not None:
            self.live.update(render(progress), refresh=True)

    def close(self) -> None:
        """Remove the bars and show the cursor again."""
        if self.live is not None:
            self.live.stop()
            self.live = None


def render(progress: Progress) -> RenderableType:
    """The bars of run, step and epoch with the time that is left, and the latest smoothed metrics."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for bar in progress.bars():
        share = bar.done / bar.total if bar.total else 1.0
        left = "" if bar.left is None else f"{'~' if bar.estimated else ''}{duration(bar.left)} left"
        grid.add_row(
            Text(bar.label, "bold", overflow="ellipsis", no_wrap=True),
            ProgressBar(total=max(1, bar.total), completed=bar.done, width=24),
            Text(f"{share:.0%}", justify="right", no_wrap=True),
            Text(f"{bar.done:,}/{bar.total:,}", justify="right", no_wrap=True),
            Text(left, "cyan", justify="right", no_wrap=True),
        )
    return Group(grid, Text(" | ".join(progress.parts(progress.smoothed())), "dim"))


def open_display(console: Console, every_seconds: float) -> PlainLines:
    """Bars on a terminal, lines elsewhere."""
    return LiveBars(console) if is_live(console) else PlainLines(console, every_seconds)
