"""Observer `jsonl`: the metrics of a run as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import Factory, define, field, frozen

from fluxflow_registry import Position, hookimpl

from .files import write_whole
from .formatting import finite, placed
from .pace import Pace

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView


@define
class _Written:
    """What an observer of one run remembers."""

    pace: Pace = Factory(Pace)
    #: Evaluations that are in a file already: (step, global step, name) and the figures.
    evaluations: dict[tuple[str, int, str], Any] = Factory(dict)


@frozen(eq=False)
class JsonLines:
    """Writes `graph/training_metrics_<step>.jsonl`: one line for each logged batch and evaluation.

    A line holds timestamp, session_id, epoch (from 1), batch, global_step (batches of the run),
    step_batch, metrics; that of a batch seconds_per_batch, that of an evaluation its name. NaN and
    infinities are null. Each line is on disk before training goes on; what a crash has left beyond
    the checkpoint from which a run goes on is taken out, so that no batch appears twice.
    """

    default: ClassVar[bool] = True

    _written: _Written = field(init=False, factory=_Written, repr=False)

    @hookimpl
    def run_started(self, run: RunView, position: Position) -> None:
        """Take out the lines of batches that will be trained again."""
        for step in run.steps:
            path = path_of(run, step)
            if path.exists():
                self._rewind(path, step.name, position.run_batch)

    @hookimpl
    def epoch_started(self, position: Position) -> None:
        """Start the clock."""
        self._written.pace.start(position.run_batch, perf_counter())

    @hookimpl
    def metrics_logged(self, run: RunView, step: StepView, position: Position, metrics: Mapping[str, float]) -> None:
        """Write one line for a batch."""
        seconds = self._written.pace.measure(position.run_batch, perf_counter())
        _append(run, step, position, {"metrics": metrics, "seconds_per_batch": seconds})

    @hookimpl
    def evaluated(
        self, run: RunView, step: StepView, position: Position, name: str, metrics: Mapping[str, float]
    ) -> None:
        """Write one line for an evaluation, unless the same figures stand there already."""
        key, measured = (step.name, position.run_batch, name), finite(dict(metrics))
        if self._written.evaluations.get(key) != measured:
            self._written.evaluations[key] = measured
            _append(run, step, position, {"evaluation": name, "metrics": measured})

    def _rewind(self, path: Path, step: str, run_batch: int) -> None:
        content = path.read_bytes()
        kept = []
        for line in content.splitlines(keepends=True):
            facts = _read(line)
            if facts is None or facts["global_step"] > run_batch:
                continue
            kept.append(line)
            if "evaluation" in facts:
                key = (step, facts["global_step"], str(facts["evaluation"]))
                self._written.evaluations[key] = facts.get("metrics")
        if b"".join(kept) != content:
            write_whole(path, b"".join(kept))


def path_of(run: RunView, step: StepView) -> Path:
    """The file of a step's metrics."""
    return run.folder / "graph" / f"training_metrics_{step.name}.jsonl"


def _append(run: RunView, step: StepView, position: Position, facts: Mapping[str, Any]) -> None:
    """Add one line; the file is opened for it alone, so that nothing is lost or left open in a crash."""
    epoch, batch = placed(step, position)
    line = {
        "timestamp": datetime.now().isoformat(timespec="microseconds"),
        "session_id": run.session,
        "epoch": epoch,
        "batch": batch,
        "global_step": position.run_batch,
        "step_batch": position.step_batch,
        **finite(facts),
    }
    path = path_of(run, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, allow_nan=False) + "\n")


def _read(line: bytes) -> dict[str, Any] | None:
    """The facts of one whole line, or None for one that a crash has torn."""
    try:
        facts = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(facts, dict) and isinstance(facts.get("global_step"), int)
    return facts if whole else None
