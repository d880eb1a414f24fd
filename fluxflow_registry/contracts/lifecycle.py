"""The events of a run that observers are notified of, in the order in which they happen, and what they see of it.

An observer marks its methods with `@hookimpl` and takes only the arguments that it needs. Observers
never change the run. One that raises an exception is reported once and receives no more events; if it is `required`,
the run ends with its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pluggy import HookspecMarker

from fluxflow_registry.contracts.position import Position, Summary
from fluxflow_registry.contracts.transition import Ending

hookspec = HookspecMarker("fluxflow")


class StepView(Protocol):
    """A step as observers see it."""

    @property
    def name(self) -> str:
        """The step's name in the recipe."""

    @property
    def index(self) -> int:
        """Its index in the order of execution, from 0."""

    @property
    def epochs(self) -> int:
        """Epochs that the recipe plans; a transition may end the step sooner."""

    @property
    def batches(self) -> int:
        """Batches of one epoch."""

    @property
    def trains(self) -> frozenset[str]:
        """The models that the step's updates train."""

    @property
    def parent(self) -> str | None:
        """The step from whose end it starts; None: from new weights."""

    @property
    def accumulate(self) -> int:
        """Batches whose gradients are averaged: no weight changes within them."""


class RunView(Protocol):
    """A run as observers see it."""

    @property
    def name(self) -> str:
        """The recipe's name."""

    @property
    def folder(self) -> Path:
        """The run's folder; raises an exception, which must not be caught, if it was deleted or moved."""

    @property
    def steps(self) -> Sequence[StepView]:
        """All steps, in the order of execution."""

    @property
    def results(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """The latest value for each step, evaluation and metric."""

    @property
    def history(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """For each step and metric: its mean over each finished epoch, in all sessions of the run."""

    @property
    def session(self) -> str:
        """When this process started or resumed the run, as YYYYMMDD_HHMMSS."""

    def peek(self, dataset: str, count: int) -> dict[str, Any]:
        """The first `count` samples of a dataset of the recipe, as a batch on the run's device."""

    def draw(self, values: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Values computed from `batch` without gradient, with averaged weights where there are any.

        Their randomness depends only on the run's seed and their names: two calls agree. Raises an exception, which
        must not be caught, where the run is asked to stop meanwhile; the events of steps, epochs and evaluations, and
        the run's end, are then sent again when the run is resumed.
        """

    def upstream(self, value: str, fields: Iterable[str]) -> frozenset[str] | None:
        """The models on which a value computed from these fields depends; None where it cannot be computed."""

    def warn(self, position: Position, message: str) -> None:
        """Notify all observers of something that the user should know."""


# More than a dozen members: one method for each event of a run.
class Lifecycle:
    """The hooks of a run."""

    @hookspec
    def run_started(self, run: RunView, position: Position, resumed: bool) -> None:
        """The run starts, or is `resumed` from `position`."""

    @hookspec
    def step_started(self, run: RunView, step: StepView, position: Position) -> None:
        """A step starts or is resumed; its models, optimizers and data are ready."""

    @hookspec
    def epoch_started(self, run: RunView, step: StepView, position: Position) -> None:
        """An epoch starts or is resumed."""

    @hookspec
    def batch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """All updates of a batch are done; `position` counts it. Called for every batch: be brief."""

    @hookspec
    def metrics_logged(self, run: RunView, step: StepView, position: Position, metrics: Mapping[str, float]) -> None:
        """The metrics of one batch have been fetched from the device (every `log_every` batches)."""

    @hookspec
    def evaluated(
        self, run: RunView, step: StepView, position: Position, name: str, metrics: Mapping[str, float]
    ) -> None:
        """An evaluation of the recipe has been measured."""

    @hookspec
    def epoch_ended(self, run: RunView, step: StepView, position: Position, summaries: Mapping[str, Summary]) -> None:
        """An epoch is complete."""

    @hookspec
    def step_ended(self, run: RunView, step: StepView, position: Position, ending: Ending) -> None:
        """A step is complete; its models now have their averaged weights, where the step averages them."""

    @hookspec
    def checkpoint_due(self, run: RunView, position: Position) -> None:
        """A checkpoint of `position` is about to be saved: a run that resumes from it repeats no earlier event.

        What an observer has written and not synced must be on the disk before that.
        """

    @hookspec
    def checkpoint_saved(self, run: RunView, position: Position, folder: Path) -> None:
        """A checkpoint has been committed."""

    @hookspec
    def warned(self, run: RunView, position: Position, message: str) -> None:
        """Something that the user should know, and that does not end the run."""

    @hookspec
    def run_interrupted(self, run: RunView, position: Position, reason: str) -> None:
        """The run stops before its end, with a checkpoint saved; the same command resumes it."""

    @hookspec
    def run_failed(self, run: RunView, position: Position, error: str) -> None:
        """The run ends with an error; `position` is that of the last event, of which no checkpoint need be saved."""

    @hookspec
    def run_ended(self, run: RunView, position: Position, steps: Sequence[StepView]) -> None:
        """The run is complete and `final/` is written."""
