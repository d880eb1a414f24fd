"""Two ways to show progress: bars that are drawn over on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from .. import formatting as words
from .progress import Tracker

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

#: Seconds between two drawings of the bars.
REFRESH = 0.2


class Screen(Protocol):
    """Shows messages, and the progress of a step from `begin` to `close`."""

    #: Seconds from one `show` to the next.
    interval: float

    def say(self, text: str, style: str = "") -> None:
        """Print a message that stays."""

    def begin(self, tracker: Tracker) -> None:
        """A step begins."""

    def show(self, tracker: Tracker) -> None:
        """Show where it stands."""

    def close(self) -> None:
        """Leave the terminal as it was; may be called at any time, and again."""


class Lines:
    """Progress as plain lines."""

    def __init__(self, console: Console, interval: float) -> None:
        self.console = console
        self.interval = interval

    def say(self, text: str, style: str = "") -> None:
        """Print a message."""
        from rich.text import Text

        self.console.print(Text(text, style), soft_wrap=True)

    def begin(self, tracker: Tracker) -> None:
        """Nothing is prepared for lines."""

    def show(self, tracker: Tracker) -> None:
        """Print a line, unless the epoch's end is about to print one."""
        step, position = tracker.step, tracker.position
        if step is not None and position.batch != step.batches:
            self.say(tracker.line(step, position, tracker.smoothed()))

    def close(self) -> None:
        """Nothing is left behind by lines."""


class Bars:
    """Progress as three bars and the latest figures, under the messages.

    They are drawn by the training's own thread, a few times a second (1 ms each), so that no other
    thread is in the way when loader processes are forked.
    """

    interval = REFRESH

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None

    def say(self, text: str, style: str = "") -> None:
        """Print a message above the bars."""
        from rich.text import Text

        self.console.print(Text(text, style), soft_wrap=True)

    def begin(self, tracker: Tracker) -> None:
        """Put up the bars."""
        from rich.live import Live

        self.close()
        self.live = Live(
            drawn(tracker),
            console=self.console,
            auto_refresh=False,
            transient=True,
            # What others print meanwhile goes above the bars; results in a pipe stay there.
            redirect_stdout=sys.stdout.isatty(),
        )
        self.live.start()

    def show(self, tracker: Tracker) -> None:
        """Draw the bars anew."""
        if self.live is not None:
            self.live.update(drawn(tracker), refresh=True)

    def close(self) -> None:
        """Take the bars away and give the cursor back."""
        if self.live is not None:
            self.live.stop()
            self.live = None


def drawn(tracker: Tracker) -> RenderableType:
    """The bars of run, step and epoch with the time that is left, and the latest smoothed figures."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for bar in tracker.bars():
        share = bar.done / bar.total if bar.total else 1.0
        left = "" if bar.left is None else f"{'~' if bar.guessed else ''}{words.duration(bar.left)} left"
        grid.add_row(
            Text(bar.label, "bold", overflow="ellipsis", no_wrap=True),
            ProgressBar(total=max(1, bar.total), completed=bar.done, width=24),
            Text(f"{share:.0%}", justify="right", no_wrap=True),
            Text(f"{bar.done:,}/{bar.total:,}", justify="right", no_wrap=True),
            Text(left, "cyan", justify="right", no_wrap=True),
        )
    parts = words.figures(tracker.smoothed(), tracker.names)
    if tracker.pace.seconds is not None:
        parts.append(words.pace(tracker.pace.seconds))
    return Group(grid, Text(" | ".join(parts), "dim"))


def screen_for(console: Console, every_seconds: float) -> Screen:
    """Bars on a terminal, lines elsewhere."""
    from ..terminal import is_live

    return Bars(console) if is_live(console) else Lines(console, every_seconds)
