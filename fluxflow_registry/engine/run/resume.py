"""Resuming a run: its newest whole checkpoint, damaged ones quarantined; the weights that each step starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.checkpoints import OTHER_VERSIONS
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import Problem, RunError, counted, one_line
from fluxflow_registry.state import checkpoints, disk
from fluxflow_registry.state.bookkeeping import WRONG

#: A checkpoint's state: by section and name.
State = Mapping[str, Mapping[str, Any]]


def find_position(run: Run) -> tuple[Position, State]:
    """Load the newest checkpoint that is not damaged; returns its position, and its state within a step.

    Damaged checkpoints are reported and quarantined. Raises RunError for one that does not fit the recipe.
    """
    checkpoints.tidy(run.folder.checkpoints)
    quarantine_lost_ends(run)
    for found in checkpoints.listing(run.folder.checkpoints):
        manifest = verify_or_quarantine(run, found)
        if manifest is None:
            continue
        state, meta = run.checkpoints.load_weights(found.folder, manifest)
        run.checkpoints.saver.previous = None if found.kind == "end" else found.folder
        with must_fit(found.folder):
            position = _position(meta["position"], len(run.plan.steps))
            run.data.report_changed(meta.get("data", {}), position)
        if problem := run.history.restore(meta):
            message = f"the history in checkpoint {found.folder.name} is damaged: {problem}\n    it starts over"
            run.observers.warn(position, message)
        return position, {} if found.kind == "end" else state
    return Position(), {}


def _position(saved: Mapping[str, Any], steps: int) -> Position:
    """The position that a checkpoint has; raises ValueError for one that no run of this recipe can be at."""
    position = Position(**saved)
    counts = asdict(position)
    known = counts == saved and all(type(count) is int and count >= 0 for count in counts.values())
    if not known or position.step > steps:
        raise ValueError(f"{position} is not a position in this recipe")
    return position


@contextmanager
def must_fit(checkpoint: Path) -> Iterator[None]:
    """Raise RunError where a state does not fit this recipe, because of another version of a plugin, for example."""
    try:
        yield
    except (*WRONG, RuntimeError) as error:
        notes = (("cause", one_line(error)), ("hint", OTHER_VERSIONS))
        problem = Problem("the checkpoint does not fit the recipe", str(checkpoint), notes, code="conflict")
        raise RunError(problem) from error


def verify_or_quarantine(run: Run, found: checkpoints.Found) -> Mapping[str, Any] | None:
    """The manifest of a checkpoint; None for a damaged one, which is reported and quarantined.

    Raises RunError if the checkpoint cannot be read for another reason.
    """
    try:
        return checkpoints.verify(found.folder)
    except checkpoints.DamagedError as error:
        aside = disk.set_aside(found.folder)
        message = f"{error}\n    quarantined as {aside.name}; training resumes from the checkpoint before it"
        run.observers.warn(Position(), message)
        return None


def quarantine_lost_ends(run: Run) -> None:
    """Quarantine each damaged end of a step that a later step or `final/` needs, and every later checkpoint.

    The run then resumes from before that end.
    """
    names = [step.name for step in run.plan.steps]
    parents = {step.parent for step in run.plan.steps if step.parent != names[max(step.index - 1, 0)]}
    leaves = run.plan.leaves
    needed = parents | ({leaf.name for leaf in leaves} if len(leaves) > 1 else set())
    found = checkpoints.listing(run.folder.checkpoints)
    for end in [f for f in reversed(found) if f.kind == "end" and f.step in needed]:
        if end.folder.exists() and verify_or_quarantine(run, end) is None:
            for each in [f for f in found if f.run_batch >= end.run_batch and f.folder.exists()]:
                disk.set_aside(each.folder)
            again = f"step `{end.step}` is trained again from the checkpoint before its end"
            run.observers.warn(Position(), f"{again}, and so are the steps after it")


def enter(run: Run, position: Position, state: State) -> LiveStep:
    """Prepare a step: its parent's weights, its own optimizers, and its `state` if it resumes within it."""
    step = run.plan.steps[position.step]
    if not state:
        parent = step.parent
        if parent != (run.plan.steps[position.step - 1].name if position.step else None):
            start_from(run, parent)
        run.checkpoints.saver.previous = None
    live = run.prepare(step)
    if state:
        with must_fit(run.folder.checkpoints):
            live.load(state, position)
            report_schedules(run, live, position)
            if position.epoch:  # an older version recorded it in the state of the step only
                run.history.close_epoch(step.name, position.epoch, live.metrics.history)
    run.live = live
    return live


def report_schedules(run: Run, live: LiveStep, position: Position) -> None:
    """Warn of schedules whose length has changed, because an epoch has more or fewer batches than before."""
    for update in live.updates:
        now, before = update.optimizer.schedule.total, update.optimizer.schedule.total_before
        if before is not None:
            length = f"the schedule of update `{update.name}` has {now:,} intervals instead of {before:,}"
            message = f"step `{live.plan.name}`: an epoch now has {counted(live.plan.batches, 'batch')}"
            run.observers.warn(position, f"{message}; {length}, so that it ends with the step")


def start_from(run: Run, parent: str | None) -> None:
    """Load the weights of the parent step's end into the models, or the initial weights if there is no parent."""
    if parent is None:
        for name, model in build_models(run.plan, run.device).items():
            run.models[name].load_state_dict(model.state_dict())
    else:
        run.checkpoints.load_weights(run.checkpoints.end_of(parent))
