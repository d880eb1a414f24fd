"""How long a batch takes."""

from __future__ import annotations

from attrs import define


@define
class Pace:
    """Seconds per batch over the last stretch of training, which is at least `window` seconds long."""

    window: float = 0.0
    #: The latest figure; None before any batch.
    seconds: float | None = None
    #: When and at which batch the clock was last read.
    at: float = 0.0
    at_batch: int = 0
    #: Seconds and batches of the stretch so far.
    took: float = 0.0
    done: int = 0
    #: Whether a whole stretch has been seen; until then the figure is that of what there is.
    settled: bool = False

    def start(self, batches: int, now: float) -> None:
        """Let the clock go on; the time since it was last read (an evaluation, say) belongs to no batch."""
        self.at, self.at_batch = now, batches

    def measure(self, batches: int, now: float) -> float | None:
        """Read the clock after `batches` batches in all; gives the latest figure."""
        self.took += now - self.at
        self.done += batches - self.at_batch
        self.start(batches, now)
        whole = self.took >= self.window
        if self.done > 0 and (whole or not self.settled):
            self.seconds = self.took / self.done
            if whole:
                self.settled, self.took, self.done = True, 0.0, 0
        return self.seconds
