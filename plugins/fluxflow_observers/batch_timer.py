"""How long a batch takes."""

from __future__ import annotations

from attrs import define


@define
class BatchTimer:
    """Seconds per batch over the latest stretch of training, which is at least `window` seconds long."""

    window: float = 0.0
    #: The latest result; None before any batch.
    seconds: float | None = None
    #: When, and after which batch, the clock was last read.
    read_at: float = 0.0
    read_after: int = 0
    #: Seconds and batches of the current stretch.
    elapsed: float = 0.0
    batches: int = 0
    #: Whether a whole stretch has passed; until then the result covers what there is.
    settled: bool = False

    def start(self, batches: int, now: float) -> None:
        """Start the clock again: the time since it was last read, such as that of an evaluation, is not counted."""
        self.read_at, self.read_after = now, batches

    def measure(self, batches: int, now: float) -> float | None:
        """Read the clock after `batches` batches of the run; returns the latest result."""
        self.elapsed += now - self.read_at
        self.batches += batches - self.read_after
        self.start(batches, now)
        complete = self.elapsed >= self.window
        if self.batches > 0 and (complete or not self.settled):
            self.seconds = self.elapsed / self.batches
            if complete:
                self.settled, self.elapsed, self.batches = True, 0.0, 0
        return self.seconds
