"""Where messages go: standard error, as a terminal or as plain lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: Wide enough that nothing is wrapped where no terminal sets a width.
ENDLESS = 1000


class Patient:
    """A stream whose reader may go away (a closed terminal, `| head`): training goes on in silence."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.gone = False

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return self.stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write, unless the reader has gone."""
        if not self.gone:
            try:
                self.stream.write(text)
            except (OSError, ValueError):
                self.gone = True
        return len(text)

    def flush(self) -> None:
        """Flush, unless the reader has gone."""
        if not self.gone:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self.gone = True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return self.stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        """The stream's descriptor, from which a terminal's size is read."""
        return self.stream.fileno()


def open_console(stream: TextIO | None = None) -> Console:
    """A rich console on standard error; rich itself honours NO_COLOR and FORCE_COLOR.

    Without a terminal the lines are as long as they are: nobody wants a log wrapped at 80.
    """
    from rich.console import Console

    patient = Patient(stream or sys.stderr)
    width = None if patient.isatty() else ENDLESS
    # rich asks for a stream and uses these methods alone.
    return Console(file=patient, width=width, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]


def is_live(console: Console) -> bool:
    """Whether lines can be drawn over; FORCE_COLOR on a pipe asks for colours, not for this."""
    return console.file.isatty() and not console.is_dumb_terminal
