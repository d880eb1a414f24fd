"""The checkpoints of a run: what is saved in them, by a thread that writes them, and how weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from attrs import Factory, asdict, define, evolve, frozen
from torch import nn

from fluxflow_registry.contracts import History, Position
from fluxflow_registry.engine.run.folder import RunFolder
from fluxflow_registry.engine.run.observers import Observers
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import FluxflowError, Problem, RunError, TrainingError, one_line, to_json
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.bookkeeping import WRONG
from fluxflow_registry.state.store import Buffers

#: Seconds of training after which a checkpoint is saved in any case: about the most that a crash costs.
INTERVAL = 600.0

#: How long saving may take before ends of epochs are left out, in seconds and as a share of the time of training.
ALLOWANCE, SHARE = 60.0, 0.1

#: For each step and metric: its mean over each closed epoch.
Means = Mapping[str, Mapping[str, Sequence[float]]]

SAME_VERSIONS = "use the plugins and versions of environment.json"
OTHER_VERSIONS = f"{SAME_VERSIONS}, or start over with --fresh"


@define
class RunHistory:
    """By step: its closed epochs, the mean of each metric in each of them, and its evaluations."""

    #: The digest of the recipe, its steps by name, and the digest of each dataset whose samples could change.
    recipe: str = ""
    steps: Sequence[str] = ()
    data: Mapping[str, str] = Factory(dict)
    epochs: dict[str, int] = Factory(dict)
    means: dict[str, dict[str, list[float]]] = Factory(dict)
    #: For each step, evaluation and metric: the latest value.
    results: dict[str, dict[str, dict[str, float]]] = Factory(dict)
    #: For each dataset: the samples that cannot be read, by index, and why.
    damaged: dict[str, dict[str, str]] = Factory(dict)

    def close_epoch(self, step: str, epochs: int, history: History) -> None:
        """Record that a step has closed so many epochs, with this history."""
        self.epochs[step] = epochs
        self.means[step] = {name: [summary.mean for summary in rows] for name, rows in history.items()}

    def metadata(self, position: Position, step: str) -> dict[str, Any]:
        """The JSON side of a checkpoint of a step; a mean that is not finite is null."""
        current = self.steps[position.step] if position.step < len(self.steps) else None
        return {
            "position": asdict(position),
            "step": step,
            "epoch": sum(self.epochs.values()),
            "global_step": position.run_batch,
            "pipeline_metadata": {
                "current_step": position.step,
                "current_step_name": current,
                "step_start_epoch": sum(count for name, count in self.epochs.items() if name != current),
                "current_step_epoch": position.epoch,
                "step_epochs": self.epochs,
                "step_metrics": to_json(self.means),
            },
            "recipe": self.recipe,
            "results": self.results,
            "damaged": self.damaged,
            "data": self.data,
        }

    def restore(self, metadata: Mapping[str, Any]) -> str | None:
        """Restore the history from the metadata of a checkpoint; an older version saved no epochs and means.

        Returns what is wrong with it if it is damaged: it is then empty, as no weight depends on it.
        """
        kept: Sequence[dict[str, Any]] = (self.epochs, self.means, self.results, self.damaged)
        problem = None
        try:
            read = _history(metadata)
        except WRONG as error:
            read, problem = ({}, {}, {}, {}), one_line(error)
        for content, new in zip(kept, read, strict=True):
            content.clear()  # and not a new mapping: observers refer to this one
            content.update(new)
        return problem


def _history(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The epochs, means, results and damaged samples in the metadata of a checkpoint; raises one of WRONG."""
    saved = metadata.get("pipeline_metadata", {})
    means = {
        step: {
            name: [math.nan if mean is None else float(_number(mean)) for mean in row] for name, row in metrics.items()
        }
        for step, metrics in saved.get("step_metrics", {}).items()
    }
    epochs = {step: int(count) for step, count in saved.get("step_epochs", {}).items()}
    results = {
        step: {
            name: {metric: _number(value) for metric, value in metrics.items()} for name, metrics in measured.items()
        }
        for step, measured in metadata["results"].items()
    }
    damaged = {
        dataset: {index: str(problem) for index, problem in samples.items()}
        for dataset, samples in metadata["damaged"].items()
    }
    return epochs, means, results, damaged


def _number(value: Any) -> float:
    """A number as a run writes it; raises TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{type(value).__name__} instead of a number")
    float(value)  # raises OverflowError for an integer that is too large
    return value


@frozen
class Saved:
    """A checkpoint that was committed, or the error that prevented it."""

    position: Position
    folder: Path
    error: FluxflowError | None = None


class Saver:
    """Writes one checkpoint at a time under `root`; starting the next one waits for the one before.

    A crash during a write leaves the checkpoint before it intact.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.buffers = Buffers()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[Saved] | None = None
        #: The newest checkpoint of this step, or None: its frozen parts are linked instead of being written again.
        self.previous: Path | None = None
        #: When this process started, and when it saved last; for how many seconds it has copied and written.
        self.started = self.saved = monotonic()
        self.spent = 0.0

    def start(
        self,
        name: str,
        position: Position,
        state: store.State,
        meta: Mapping[str, Any],
        frozen: Collection[tuple[str, str]],
        keep: int,
        exempt: Mapping[tuple[str, str], Collection[str]] | None = None,
    ) -> Saved | None:
        """Copy the state and start writing it; returns the outcome of the write before if it was still running."""
        outcome = self.wait()
        self.saved = monotonic()
        snapshot = store.snapshot(state, meta, self.buffers, frozen, exempt)
        self.spent += monotonic() - self.saved
        self.pending = self.thread.submit(self._write, name, position, snapshot, keep)
        return outcome

    def poll(self) -> Saved | None:
        """The outcome of a write that has finished since the last call; None while it runs."""
        return self.wait() if self.pending is not None and self.pending.done() else None

    def wait(self) -> Saved | None:
        """Wait for the write that is running, and return its outcome."""
        if self.pending is None:
            return None
        pending, self.pending = self.pending, None
        return pending.result()

    def close(self) -> None:
        """Wait for the write that is running, and start no other."""
        self.thread.shutdown()

    def _write(self, name: str, position: Position, snapshot: store.Snapshot, keep: int) -> Saved:
        started = monotonic()
        try:
            folder = store.commit(self.root, name, snapshot, self.previous)
        except Exception as error:  # lack of memory, for example: what is on the disk is intact
            message = f"cannot write the checkpoint: {one_line(error)}"
            failure = RunError(message, str(self.root / name), code="unwritable-file")
            return Saved(position, self.root / name, error if isinstance(error, FluxflowError) else failure)
        finally:
            self.spent += monotonic() - started  # `start` waits for this thread: they never add at once
        self.previous = folder
        with suppress(OSError):  # what cannot be removed now is removed the next time
            checkpoints.retain(self.root, keep, latest=folder)
        return Saved(position, folder)


class RunCheckpoints:
    """Saves a run in the background, notifies observers once a checkpoint is committed, and loads weights."""

    def __init__(
        self, folder: RunFolder, models: Mapping[str, nn.Module], history: RunHistory, observers: Observers
    ) -> None:
        self._folder = folder
        self._models = models
        self._history = history
        self._observers = observers
        self.saver = Saver(folder.checkpoints)

    @property
    def overdue(self) -> bool:
        """Whether a crash would cost too much training now; not while a checkpoint is being written."""
        return self.saver.pending is None and monotonic() - self.saver.saved > INTERVAL

    @property
    def affordable(self) -> bool:
        """Whether saving takes so little of the time that the end of an epoch is saved too.

        Where epochs are short and models are large, training would do little else.
        """
        return self.saver.spent < ALLOWANCE + SHARE * (monotonic() - self.saver.started)

    def save(self, position: Position, kind: checkpoints.Kind, step: LiveStep, wait: bool = False) -> None:
        """Save everything that is not a function of the position, and `wait` for the disk only on request.

        Raises TrainingError where it waits and the checkpoint cannot be written; otherwise that is a warning.
        """
        if self._folder.temporary:
            return
        self._folder.require()
        self._observers.notify("checkpoint_due", position=position)
        state: dict[str, dict[str, Any]] = {"model": {name: model.state_dict() for name, model in self._models.items()}}
        if kind != "end":
            state.update(step.state())
        models = {("model", name): model for name, model in self._models.items()} | {
            ("ema", name): average.module for name, average in step.averages.items()
        }
        outcome = self.saver.start(
            checkpoints.name_of(position.run_batch, step.plan.name, kind),
            position,
            state,
            self._history.metadata(position, step.plan.name),
            step.frozen,
            step.settings.keep_checkpoints,
            exempt={part: {key for key, _ in model.named_buffers()} for part, model in models.items()},
        )
        self._report(outcome, required=False)
        if wait:
            self.collect(wait=True, required=True)

    def collect(self, wait: bool = False, required: bool = False) -> None:
        """Report the checkpoint that is being written, if it is written by now, or `wait` for it.

        Raises TrainingError where it is `required` and cannot be written; otherwise that is a warning.
        """
        self._report(self.saver.wait() if wait else self.saver.poll(), required)

    def load_weights(
        self, folder: Path, manifest: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Load the weights of a checkpoint into the models; returns its whole state and its metadata.

        See `store.load` for the manifest. Raises RunError where it cannot be read, is of another recipe, or has other
        models.
        """
        state, metadata = store.load(folder, manifest)
        self._require_own(folder, metadata)
        for name, model in self._models.items():
            load_into(model, name, state["model"], folder, OTHER_VERSIONS)
        return state, metadata

    def _require_own(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Raise RunError for a checkpoint that was copied in from a run of another recipe, even if it fits."""
        recipe, own = str(metadata.get("recipe") or self._history.recipe), self._history.recipe
        if own and recipe != own:  # a replay has no recipe of its own
            notes = (
                ("cause", f"it was saved by a run of recipe {recipe[:12]}, and this run trains recipe {own[:12]}"),
                ("hint", "move it out of the folder, or start over with --fresh"),
            )
            raise RunError(Problem("the checkpoint belongs to another recipe", str(folder), notes, code="conflict"))

    def end_of(self, step: str) -> Path:
        """The checkpoint of a step's end; raises RunError where there is none."""
        for found in checkpoints.listing(self._folder.checkpoints):
            if found.kind == "end" and found.step == step:
                return found.folder
        message = f"the checkpoint of the end of step `{step}` is missing"
        notes = (("hint", "start over with --fresh"),)
        raise RunError(Problem(message, str(self._folder.checkpoints), notes, code="missing-file", subject=step))

    def _report(self, saved: Saved | None, required: bool) -> None:
        if saved is None:
            return
        if saved.error is None:
            self._observers.notify("checkpoint_saved", position=saved.position, folder=saved.folder)
            return
        left = checkpoints.listing(self._folder.checkpoints)
        newest = f"the newest checkpoint is {left[0].folder.name}" if left else "there is no checkpoint yet"
        if required:
            again = "rerun the same command to resume from it" if left else "the same command starts over"
            resume = ("status", f"{newest}; {again}")
            *others, last = saved.error.problems
            raise TrainingError([*others, evolve(last, notes=(*last.notes, resume))])
        message = f"{saved.error}\n    {newest}; training continues, and the next checkpoint is saved as scheduled"
        self._observers.warn(saved.position, message)


def load_into(model: nn.Module, name: str, weights: Mapping[str, Any], where: Path, hint: str) -> None:
    """Load the weights of that name into a model; raises RunError where they do not fit it."""
    try:
        model.load_state_dict(weights[name])
    except (KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        # The first line of torch's error names the class of the model alone.
        cause = " ".join(line.strip() for line in str(error).splitlines()[1:3]) or one_line(error)
        message, notes = f"the weights do not fit model `{name}` of the recipe", (("cause", cause), ("hint", hint))
        raise RunError(Problem(message, str(where), notes, code="conflict", subject=name)) from error
