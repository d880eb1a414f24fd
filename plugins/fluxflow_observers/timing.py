"""How long a batch takes, and how long each step has taken in all sessions of a run."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from fluxflow_registry import read_back

if TYPE_CHECKING:
    from fluxflow_registry import Position, RunView

#: The file of a run that records the times of its steps, as of the latest checkpoint.
FILE = "results.json"

#: Seconds that no step takes: a thousand years.
LONGEST = 1e11


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


@define
class StepClock:
    """Seconds spent in each step, in all sessions of a run: batches, evaluations, samples and checkpoints."""

    seconds: dict[str, float] = Factory(dict)
    step: str | None = None
    read_at: float = 0.0

    def resume(self, run: RunView, position: Position, resumed: bool) -> None:
        """Start, with the times of earlier sessions if the run is resumed."""
        self.enter(None)
        self.seconds = {}
        if resumed:
            self.seconds = read_back(run.folder / FILE, _seconds, lambda message: run.warn(position, message)) or {}

    def enter(self, step: str | None) -> None:
        """Count for `step` from now on; None: for no step."""
        now = perf_counter()
        if self.step is not None:
            self.seconds[self.step] = self.seconds.get(self.step, 0.0) + now - self.read_at
        self.step, self.read_at = step, now


def _seconds(results: Any) -> dict[str, float]:
    """The times of earlier sessions in the content of the file; raises an exception for what a run does not write."""
    seconds = {str(name): float(facts["seconds"]) for name, facts in results["steps"].items()}
    for name, time in seconds.items():
        if not 0 <= time < LONGEST:
            raise ValueError(f"step `{name}` took {time} seconds")
    return seconds
