"""Signals of a training command: the first requests a checkpoint, the second stops it immediately."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fluxflow_registry.cli.output import say

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.run import Run

#: Exit code of a run that a signal has stopped, with everything saved (EX_TEMPFAIL of sysexits.h).
STOPPED = 75

#: Exit code of a command that a second signal has stopped immediately.
INTERRUPTED = 130


class Signals:
    """Handles SIGINT and SIGTERM from the start of the command to its end."""

    def __init__(self) -> None:
        #: The run that is being trained; None while there is nothing to lose.
        self.run: Run | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Ask the run to stop; exit where there is no run, or where it has been asked before."""
        name = signal.Signals(number).name
        if self.run is None:
            leave(STOPPED, f"{name}: stopped before training started; rerun the same command to start or resume")
        if self.run.stopping is not None:
            leave(INTERRUPTED, f"{name} again: stopped immediately; the last checkpoint is intact")
        self.run.stopping = name


def leave(code: int, message: str) -> NoReturn:
    """End this process and its workers without waiting for anything."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    say(("\x1b[?25h" if sys.stderr.isatty() else "") + message)  # a live display hides the cursor
    os._exit(code)
