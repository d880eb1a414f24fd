"""Observer `jsonl`: the metrics of a run as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import Factory, define, field, frozen, validators

from fluxflow_registry import FluxflowError, Position, Summary, hookimpl

from .batch_timer import Pace
from .files import write_whole
from .formatting import finite, placed
from .metric_names import NAME

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView


@define
class _Written:
    """What an observer of one run remembers."""

    pace: Pace = Factory(Pace)
    #: Evaluations that are in a file already: (step, global step, name) and the figures.
    evaluations: dict[tuple[str, int, str], Any] = Factory(dict)
    #: Epochs that are summed up in a file already: step and epoch.
    epochs: set[tuple[str, int]] = Factory(set)
    #: The step that this session goes on with, and after which batch of the run, until a line has said so.
    resumed: tuple[str, int] | None = None
    #: Metrics whose names were looked at.
    seen: frozenset[str] = frozenset()


@frozen(eq=False)
class JsonLines:
    """Writes `graph/training_metrics_<step>.jsonl`: a line for each logged batch, evaluation and epoch.

    A line holds timestamp, session_id, epoch (from 1), batch, global_step (batches of the run),
    step_batch, metrics. That of a batch has seconds_per_batch too, and among its metrics losses
    (`vae_loss`, `vae/kl`), learning rates (`vae/lr`), gradient norms (`vae/grad_norm`) and weights as
    they are at that batch (`vae/kl/weight`). That of an evaluation has its name as `evaluation`. That of
    an epoch has no metrics; its `epoch_summary` holds min, mean and max of each over all batches.
    The first line after a run went on has the batch of the run after which it did, as `resumed_after`.
    NaN and infinities are null. Each line is on disk before training goes on; what a crash has left
    beyond the checkpoint from which a run goes on is taken out, so that no batch appears twice.
    """

    default: ClassVar[bool] = True

    names: dict[str, str] = field(factory=dict, validator=validators.deep_mapping(NAME, NAME))
    """Names under which metrics are written instead of their own, such as `{vae/kl: kl_loss}`."""

    _written: _Written = field(init=False, factory=_Written, repr=False)

    def __attrs_post_init__(self) -> None:
        """Refuse to write two metrics under one name."""
        for name in self.names.values():
            sharing = [metric for metric, given in self.names.items() if given == name]
            if len(sharing) > 1:
                raise ValueError(f"`names` writes both `{sharing[0]}` and `{sharing[1]}` as `{name}`")

    @hookimpl
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """Take out the lines of batches that will be trained again."""
        if resumed and position.step_batch:
            self._written.resumed = (run.steps[position.step].name, position.run_batch)
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
        self._append(run, step, position, {"metrics": self._named(metrics), "seconds_per_batch": seconds})

    @hookimpl
    def evaluated(
        self, run: RunView, step: StepView, position: Position, name: str, metrics: Mapping[str, float]
    ) -> None:
        """Write one line for an evaluation, unless the same figures stand there already."""
        key, measured = (step.name, position.run_batch, name), finite(dict(metrics))
        if self._written.evaluations.get(key) != measured:
            self._written.evaluations[key] = measured
            self._append(run, step, position, {"evaluation": name, "metrics": measured})

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """Write one line for an epoch; it may be told twice where the run was interrupted here."""
        if (step.name, position.epoch) in self._written.epochs:
            return
        self._written.epochs.add((step.name, position.epoch))
        figures = {name: {"min": s.minimum, "mean": s.mean, "max": s.maximum} for name, s in summaries.items()}
        self._append(run, step, position, {"metrics": {}, "epoch_summary": self._named(figures)})

    def _named(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics under the names that the recipe gives them; raises FluxflowError where one is taken."""
        if metrics.keys() != self._written.seen:
            self._written.seen = frozenset(metrics)
            for metric, name in self.names.items():
                if metric in metrics and name in metrics and name not in self.names:
                    told = f"observer `jsonl` writes `{metric}` as `{name}`, which is the name of another metric"
                    raise FluxflowError(f"{told}: give `{name}` another name too")
        return {self.names.get(metric, metric): value for metric, value in metrics.items()}

    def _append(self, run: RunView, step: StepView, position: Position, facts: Mapping[str, Any]) -> None:
        """Add a line; the first after a run went on says after which batch it did."""
        if self._written.resumed is not None and self._written.resumed[0] == step.name:
            facts = {**facts, "resumed_after": self._written.resumed[1]}
        self._written.resumed = None
        _append(run, step, position, facts)

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
            if "epoch_summary" in facts:
                self._written.epochs.add((step, facts.get("epoch", 0)))
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
