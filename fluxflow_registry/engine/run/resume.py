"""Where a run stands, and how a step is entered: from its own checkpoint, or from its parent's end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.history import RunHistory
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.step import LiveStep, StepFacts
from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state import checkpoints

#: A checkpoint's state: by section and name.
State = Mapping[str, Mapping[str, Any]]


def find_position(run: Run) -> tuple[Position, State]:
    """Where the newest checkpoint that verifies stands; a damaged one is named and laid aside.

    Raises RunError where a whole checkpoint does not fit the recipe's models: that is no damage.
    """
    root = run.run_folder.checkpoints
    checkpoints.tidy(root)
    lay_lost_ends_aside(run)
    for found in checkpoints.listing(root):
        manifest = verified(run, found)
        if manifest is None:
            continue
        state, meta = run.load_weights(found.folder, manifest)
        run.saver.before = None if found.end else found.folder
        with fitting(found.folder):
            run.results, run.damaged = dict(meta["results"]), dict(meta["damaged"])
            run.chronicle = RunHistory.of(meta.get("pipeline_metadata", {}))
            position = Position(**meta["position"])
            tell_changed_data(run, meta.get("data", {}), position)
        return position, {} if found.end else state
    return Position(), {}


def tell_changed_data(run: Run, before: Mapping[str, str], position: Position) -> None:
    """Say which datasets are not what they were at the checkpoint: the order of their samples is another now."""
    for name, digest in run.data.items():
        if before.get(name, digest) != digest:
            message = f"dataset `{name}` is not what it was when the run was saved: it goes on with other data"
            run.tell("warned", position=position, message=message)


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
        run.tell("warned", position=Position(), message=message)
        return None


def lay_lost_ends_aside(run: Run) -> None:
    """Go back to before the end of a step that is damaged and from which a later one starts, or which is a result."""
    names = [facts.name for facts in run.steps]
    parents = {facts.checked.parent for facts in run.steps if facts.checked.parent != names[max(facts.index - 1, 0)]}
    leaves = run.checked.leaves()
    needed = parents | ({leaf.name for leaf in leaves} if len(leaves) > 1 else set())
    found = checkpoints.listing(run.run_folder.checkpoints)
    for end in [f for f in reversed(found) if f.end and f.step in needed]:
        if end.folder.exists() and verified(run, end) is None:
            later = [f for f in found if f.run_batch >= end.run_batch and f.folder.exists()]
            for each in later:
                checkpoints.lay_aside(each.folder)
            message = f"step `{end.step}` is trained again from before its end, and so is what came after it"
            run.tell("warned", position=Position(), message=message)


def enter(run: Run, position: Position, state: State) -> LiveStep:
    """Make a step ready: its parent's weights, its own optimizers, and its state when it is re-entered."""
    facts = run.steps[position.step]
    if not state:
        parent = facts.checked.parent
        if parent != (run.steps[position.step - 1].name if position.step else None):
            start_from(run, parent)
        run.saver.before = None
    live = made_ready(run, facts)
    if state:
        with fitting(run.run_folder.checkpoints):
            live.load(state)
            if position.epoch:  # an older version has left this to the step's own state
                run.chronicle.close_epoch(facts.name, position.epoch, live.tally.history)
    run.live = live
    return live


def made_ready(run: Run, facts: StepFacts) -> LiveStep:
    """A step at its beginning, with the models as they are."""
    run.beginnings.restore(facts.checked)
    source = run.sources[facts.checked.step.settings.dataset]
    return LiveStep(facts, source, run.models, run.seed, run.device, run.checked.solver)


def start_from(run: Run, parent: str | None) -> None:
    """Give the models the weights in which the parent step ended, or new ones where there is no parent."""
    if parent is None:
        run.reset_models()
        return
    run.load_weights(run.end_of(parent))
