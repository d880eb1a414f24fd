"""Where messages go: standard error, as a terminal or as plain lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: Wide enough that nothing is wrapped where no terminal sets a width.
UNWRAPPED = 1000


class TolerantStream:
    """A stream whose reader may disappear (a closed terminal, `| head`): training continues without output."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream: TextIO | io.StringIO = io.StringIO() if stream is None else stream
        self.gone = stream is None

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return self.stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Write, unless the reader is gone."""
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, unless the reader is gone."""
        self._try(self.stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if not self.gone:
            try:
                action()
            except (OSError, ValueError):
                self.gone = True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return self.stream.isatty()
        except (OSError, ValueError):  # closed
            return False

    def fileno(self) -> int:
        """The stream's descriptor, from which a terminal's size is read."""
        return self.stream.fileno()


def open_console(stream: TextIO | None = None) -> Console:
    """A rich console on standard error; rich itself honors NO_COLOR and FORCE_COLOR.

    Without a terminal, lines are not wrapped: nobody wants a log wrapped at 80 columns.
    """
    from rich.console import Console

    tolerant = TolerantStream(stream or sys.stderr)
    width = None if tolerant.isatty() else UNWRAPPED
    # rich declares a TextIO, but uses these methods alone.
    return Console(file=tolerant, width=width, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]


def is_live(console: Console) -> bool:
    """Whether lines can be redrawn; FORCE_COLOR on a pipe requests colors, not this."""
    return console.file.isatty() and not console.is_dumb_terminal
