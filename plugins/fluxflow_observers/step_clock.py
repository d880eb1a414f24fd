"""The time of a step: from its start to its end, in all sessions of the run."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

from attrs import Factory, define

#: The file of a run that records the times of its steps, as of the latest checkpoint.
FILE = "results.json"


@define
class StepClock:
    """Seconds spent in each step, in all sessions of a run: batches, evaluations, samples and checkpoints."""

    seconds: dict[str, float] = Factory(dict)
    step: str | None = None
    read_at: float = 0.0

    def resume(self, folder: Path, resumed: bool) -> None:
        """Start, with the times of earlier sessions if the run is resumed."""
        self.enter(None)
        self.seconds = read_seconds(folder / FILE) if resumed else {}

    def enter(self, step: str | None) -> None:
        """Count for `step` from now on; None: for no step."""
        now = perf_counter()
        if self.step is not None:
            self.seconds[self.step] = self.seconds.get(self.step, 0.0) + now - self.read_at
        self.step, self.read_at = step, now


def read_seconds(path: Path) -> dict[str, float]:
    """The times of earlier sessions; empty if the file is missing or invalid."""
    try:
        steps: Any = json.loads(path.read_bytes())["steps"]
        return {str(name): float(facts["seconds"]) for name, facts in steps.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
