"""Signals of a training command: the first requests a checkpoint, the second ends the command at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from fluxflow_registry.cli.output import say
from fluxflow_registry.engine.run.stopping import Stoppable

#: Stopped by a signal, everything that was trained is saved (EX_TEMPFAIL of sysexits.h).
STOPPED = 75

#: Stopped at once, by a second signal.
INTERRUPTED = 130


class Signals:
    """Handles SIGINT and SIGTERM from the beginning of the command to its end."""

    def __init__(self) -> None:
        #: What is being trained; None as long as there is nothing that could be lost.
        self.run: Stoppable | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Request that the run stop; exit at once if there is none, or if it was requested before."""
        name = signal.Signals(number).name
        if self.run is None:
            leave(STOPPED, f"{name}: stopped before training began; the same command starts or resumes the run")
        if self.run.stopping is not None:
            leave(INTERRUPTED, f"{name} again: stopped at once; the last checkpoint is intact")
        self.run.stopping = name


def leave(code: int, message: str) -> NoReturn:
    """End this process and its workers without waiting for anything."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.kill()
    say(("\x1b[?25h" if sys.stderr.isatty() else "") + message)  # a live display hides the cursor
    os._exit(code)
