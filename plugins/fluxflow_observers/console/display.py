"""Two ways to display progress: bars that are redrawn on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from ..formatting import duration
from ..terminal import is_live
from .progress import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

#: Seconds between two redraws of the bars.
REFRESH = 0.2


class Display(Protocol):
    """Displays messages, and the progress of a step from `begin` to `close`."""

    #: Seconds from one `update` to the next.
    interval: float

    def message(self, text: str, style: str = "") -> None:
        """Print a message that stays."""

    def begin(self, progress: Progress) -> None:
        """Start a step."""

    def update(self, progress: Progress) -> None:
        """Show the progress."""

    def close(self) -> None:
        """Restore the terminal; may be called at any time, and repeatedly."""


class PlainLines:
    """Progress as plain lines."""

    def __init__(self, console: Console, interval: float) -> None:
        self.console = console
        self.interval = interval

    def message(self, text: str, style: str = "") -> None:
        """Print a message."""
        from rich.text import Text

        self.console.print(Text(text, style), soft_wrap=True)

    def begin(self, progress: Progress) -> None:
        """Lines need no preparation."""

    def update(self, progress: Progress) -> None:
        """Print a line, unless the end of the epoch is about to print one."""
        step, position = progress.step, progress.position
        if step is not None and position.batch != step.batches:
            self.message(progress.line(step, position, progress.smoothed()))

    def close(self) -> None:
        """Lines leave nothing to restore."""


class LiveBars:
    """Progress as three bars and the latest metrics, below the messages.

    The thread that trains redraws them a few times a second (1 ms each): another thread could hold a lock
    while loader processes are forked.
    """

    interval = REFRESH

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None

    def message(self, text: str, style: str = "") -> None:
        """Print a message above the bars."""
        from rich.text import Text

        self.console.print(Text(text, style), soft_wrap=True)

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


def open_display(console: Console, every_seconds: float) -> Display:
    """Bars on a terminal, lines elsewhere."""
    return LiveBars(console) if is_live(console) else PlainLines(console, every_seconds)
