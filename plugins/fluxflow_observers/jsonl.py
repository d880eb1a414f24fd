"""Observer `jsonl`: the metrics of a run as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import Factory, define, field, frozen, validators

from fluxflow_registry import (
    FluxflowError,
    Position,
    Summary,
    append_file,
    hookimpl,
    read_back_lines,
    sync_file,
    to_json,
    write_file,
)

from .formatting import NAME, epoch_and_batch
from .timing import BatchTimer

if TYPE_CHECKING:
    from fluxflow_registry import RunView, StepView


@define
class _JsonlState:
    """What changes during a run."""

    timer: BatchTimer = Factory(BatchTimer)
    #: Evaluations that a file already has: (step, global step, name) and the metrics.
    evaluations: dict[tuple[str, int, str], Any] = Factory(dict)
    #: Epochs whose summary a file already has: step and epoch.
    epochs: set[tuple[str, int]] = Factory(set)
    #: The step that this session resumes, and after which batch of the run, until a line has recorded it.
    resumed: tuple[str, int] | None = None
    #: Files with lines that are not synced yet.
    written: set[Path] = Factory(set)
    #: Metrics whose names have been checked.
    checked: frozenset[str] = frozenset()


@frozen(eq=False)
class Jsonl:
    """Writes `graph/training_metrics_<step>.jsonl`: a line for each logged batch, evaluation and epoch.

    A line has timestamp, session_id, epoch (from 1), batch, global_step (batches of the run),
    step_batch, metrics. The line of a batch also has seconds_per_batch, and among its metrics losses
    (`vae_loss`, `vae/kl`), learning rates (`vae/lr`), gradient norms (`vae/grad_norm`) and weights as
    they are at that batch (`vae/kl/weight`). The line of an evaluation has its name as `evaluation`. The line
    of an epoch has the means of these metrics over all its batches; its `epoch_summary` has min, mean and max of each.
    The first line after a run resumes has `resumed_after`, the batch of the run after which it resumed.
    NaN and infinities are null. Each line is in the file before training continues, so that a kill loses none, and
    on the disk before the next checkpoint is saved: what a power cut takes is written again when the run resumes.
    Lines beyond the checkpoint from which a run resumes are removed, so that no batch appears twice.
    """

    default: ClassVar[bool] = True

    names: dict[str, str] = field(factory=dict, validator=validators.deep_mapping(NAME, NAME))
    """Names under which metrics are written instead of their own, such as `{vae/kl: kl_loss}`."""

    _state: _JsonlState = field(init=False, factory=_JsonlState, repr=False)

    def __attrs_post_init__(self) -> None:
        """Require a different name for each metric."""
        for name in self.names.values():
            sharing = [metric for metric, given in self.names.items() if given == name]
            if len(sharing) > 1:
                raise ValueError(f"`names` writes both `{sharing[0]}` and `{sharing[1]}` as `{name}`")

    @hookimpl
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """Remove the lines of batches that will be trained again."""
        if resumed and position.step_batch:
            self._state.resumed = (run.steps[position.step].name, position.run_batch)
        for step in run.steps:
            path = _path(run, step)
            self._rewind(run, path, step.name, position)

    @hookimpl
    def epoch_started(self, position: Position) -> None:
        """Start the timer."""
        self._state.timer.start(position.run_batch, perf_counter())

    @hookimpl
    def metrics_logged(self, run: RunView, step: StepView, position: Position, metrics: Mapping[str, float]) -> None:
        """Write the line of a batch."""
        seconds = self._state.timer.measure(position.run_batch, perf_counter())
        self._append(run, step, position, {"metrics": self._renamed(metrics), "seconds_per_batch": seconds})

    @hookimpl
    def evaluated(
        self, run: RunView, step: StepView, position: Position, name: str, metrics: Mapping[str, float]
    ) -> None:
        """Write the line of an evaluation, unless the file already has the same metrics."""
        key, measured = (step.name, position.run_batch, name), to_json(metrics)
        if self._state.evaluations.get(key) != measured:
            self._state.evaluations[key] = measured
            self._append(run, step, position, {"evaluation": name, "metrics": measured})

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """Write the line of an epoch; the event may come twice if the run was interrupted here."""
        if (step.name, position.epoch) in self._state.epochs:
            return
        self._state.epochs.add((step.name, position.epoch))
        summary = {name: {"min": s.minimum, "mean": s.mean, "max": s.maximum} for name, s in summaries.items()}
        means = {name: s.mean for name, s in summaries.items()}
        facts = {"metrics": self._renamed(means), "epoch_summary": self._renamed(summary)}
        self._append(run, step, position, facts)

    @hookimpl
    def checkpoint_due(self) -> None:
        """Sync the lines that a run which resumes from this checkpoint does not write again."""
        for path in self._state.written:
            sync_file(path)
        self._state.written.clear()

    def _renamed(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics under the names of the recipe; raises FluxflowError if another metric has such a name."""
        if metrics.keys() != self._state.checked:
            self._state.checked = frozenset(metrics)
            for metric, name in self.names.items():
                if metric in metrics and name in metrics and name not in self.names:
                    message = f"observer `jsonl` writes `{metric}` as `{name}`, which is the name of another metric"
                    hint = ("hint", f"rename `{name}` too: add it to `names`")
                    raise FluxflowError(message, None, [hint], code="duplicate-name", subject=name)
        return {self.names.get(metric, metric): value for metric, value in metrics.items()}

    def _append(self, run: RunView, step: StepView, position: Position, facts: Mapping[str, Any]) -> None:
        """Add a line; the first one after the run resumed has the batch after which it did."""
        if self._state.resumed is not None and self._state.resumed[0] == step.name:
            facts = {**facts, "resumed_after": self._state.resumed[1]}
        self._state.resumed = None
        epoch, batch = epoch_and_batch(step, position)
        line = {
            "timestamp": datetime.now().isoformat(timespec="microseconds"),
            "session_id": run.session,
            "epoch": epoch,
            "batch": batch,
            "global_step": position.run_batch,
            "step_batch": position.step_batch,
            **to_json(facts),
        }
        path = _path(run, step)
        append_file(path, (json.dumps(line, allow_nan=False) + "\n").encode())
        self._state.written.add(path)

    def _rewind(self, run: RunView, path: Path, step: str, position: Position) -> None:
        lines = read_back_lines(path, _checked, lambda message: run.warn(position, message))
        kept = [(line, facts) for line, facts in lines if facts["global_step"] <= position.run_batch]
        for _, facts in kept:
            if "evaluation" in facts:
                self._state.evaluations[step, facts["global_step"], facts["evaluation"]] = facts["metrics"]
            if "epoch_summary" in facts:
                self._state.epochs.add((step, facts["epoch"]))
        if len(kept) < len(lines):
            write_file(path, b"".join(line for line, _ in kept))


def _path(run: RunView, step: StepView) -> Path:
    return run.folder / "graph" / f"training_metrics_{step.name}.jsonl"


def _checked(facts: Any) -> dict[str, Any]:
    """The facts of a line; raises TypeError or LookupError for what is not one."""
    required = ["global_step"]
    required += ["metrics"] if "evaluation" in facts else []
    required += ["epoch"] if "epoch_summary" in facts else []
    kinds = {"global_step": int, "epoch": int, "metrics": dict, "evaluation": str, "epoch_summary": dict}
    for name, kind in kinds.items():
        if (name in facts or name in required) and type(facts[name]) is not kind:
            raise TypeError(f"`{name}` is not of type {kind.__name__}")
    return dict(facts)
