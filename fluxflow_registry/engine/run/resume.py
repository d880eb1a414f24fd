"""Where a run stands, and how a step is entered: from its own checkpoint, or from its parent's end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.models.build import reset_weights
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state import checkpoints

#: A checkpoint's state: by section and name.
State = Mapping[str, Mapping[str, Any]]


def find_position(run: Run) -> tuple[Position, State]:
    """Where the newest checkpoint that verifies stands; a damaged one is named and laid aside.

    Raises RunError where a whole checkpoint does not fit the recipe's models: that is no damage.
    """
    checkpoints.tidy(run.checkpoints.root)
    lay_lost_ends_aside(run)
    for found in checkpoints.listing(run.checkpoints.root):
        manifest = verified(run, found)
        if manifest is None:
            continue
        state, meta = run.checkpoints.load_weights(found.folder, manifest)
        run.checkpoints.continue_from(None if found.end else found.folder)
        with fitting(found.folder):
            run.history.restore(meta)
            position = Position(**meta["position"])
            run.data.report_changed(meta.get("data", {}), position)
        return position, {} if found.end else state
    return Position(), {}


@contextmanager
def fitting(checkpoint: Path) -> Iterator[None]:
    """Tell of a state that is whole and yet not one of this recipe: another version of a plugin, for one."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        message = f"does not hold the state of this recipe: {one_line(error)}"
        hint = ("go on", "with the plugins and versions of environment.json, or begin anew with --fresh")
        raise RunError(Problem(message, str(checkpoint), (hint,))) from error


def verified(run: Run, found: checkpoints.Found) -> Mapping[str, Any] | None:
    """The manifest of a checkpoint; None for a damaged one, which is named and laid aside.

    Raises RunError where it cannot be told.
    """
    try:
        return checkpoints.verify(found.folder)
    except checkpoints.DamagedError as error:
        aside = checkpoints.lay_aside(found.folder)
        message = f"{error}\n    it is laid aside as {aside.name}, and the checkpoint before it is used"
        run.observers.warn(Position(), message)
        return None


def lay_lost_ends_aside(run: Run) -> None:
    """Go back to before the end of a step that is damaged and from which a later one starts, or which is a result."""
    names = [step.name for step in run.steps]
    parents = {step.parent for step in run.steps if step.parent != names[max(step.index - 1, 0)]}
    leaves = run.plan.leaves
    needed = parents | ({leaf.name for leaf in leaves} if len(leaves) > 1 else set())
    found = checkpoints.listing(run.checkpoints.root)
    for end in [f for f in reversed(found) if f.end and f.step in needed]:
        if end.folder.exists() and verified(run, end) is None:
            later = [f for f in found if f.run_batch >= end.run_batch and f.folder.exists()]
            for each in later:
                checkpoints.lay_aside(each.folder)
            message = f"step `{end.step}` is trained again from before its end, and so is what came after it"
            run.observers.warn(Position(), message)


def enter(run: Run, position: Position, state: State) -> LiveStep:
    """Make a step ready: its parent's weights, its own optimizers, and its state when it is re-entered."""
    step = run.steps[position.step]
    if not state:
        parent = step.parent
        if parent != (run.steps[position.step - 1].name if position.step else None):
            start_from(run, parent)
        run.checkpoints.continue_from(None)
    live = run.prepare(step)
    if state:
        with fitting(run.checkpoints.root):
            live.load(state)
            if position.epoch:  # an older version has left this to the step's own state
                run.history.close_epoch(step.name, position.epoch, live.metrics.history)
    run.live = live
    return live


def start_from(run: Run, parent: str | None) -> None:
    """Give the models the weights in which the parent step ended, or new ones where there is no parent."""
    if parent is None:
        reset_weights(run.models, run.plan, run.device)
        return
    run.checkpoints.load_weights(run.checkpoints.end_of(parent))
