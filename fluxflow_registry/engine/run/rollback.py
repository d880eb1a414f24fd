"""When losses or gradients are not finite: batches are left out, and after many in a row training rolls back."""

from __future__ import annotations

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.diagnosis.bundle import bundles, write_bundle
from fluxflow_registry.engine.run.plugins_at_start import replay_command
from fluxflow_registry.engine.run.resume import State, start_from
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.not_finite import names_of
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.engine.training.update import LiveUpdate
from fluxflow_registry.errors import Problem, RunError, TrainingError, counted
from fluxflow_registry.plan.checked import called
from fluxflow_registry.recipe.schema import OWN
from fluxflow_registry.state import checkpoints

#: Batches in a row that may be left out before training rolls back.
PATIENCE = 20

#: How often a step may roll back before it gives up.
ROLLBACKS = 3

NOTHING_TO_GO_BACK_TO = "no: no batch of this update has been finite yet, so its weights are those that it began with"


def check_finite(run: Run, live: LiveStep, position: Position) -> None:
    """After a batch: tell of what was left out, with the proof in a bundle; roll back after many in a row."""
    for turn in live.turns:
        begins = turn.skipping_since == position.step_batch - 1  # a scaler's overflow is no part of a streak
        if turn.outcome == "skipped" and turn.skipped_in_a_row == 1 and begins:
            run.checkpoints.collect(wait=True)
            bundle = write_bundle(run, live, turn, position, replay_checkpoints(run, live, position))
            run.observers.warn(position, told(live, turn, position) + bundle)
    stuck = next((turn for turn in live.turns if turn.skipped_in_a_row >= PATIENCE), None)
    if stuck is not None:
        roll_back(run, live, stuck, position)


def told(live: LiveStep, turn: LiveUpdate, position: Position) -> str:
    """Which batch was left out, what was not finite in it, and which samples it holds."""
    samples = turn.evidence.samples(live.samples) if turn.evidence else live.samples
    names = names_of(live.source, samples[:8])
    shown = ", ".join(names) + (f", and {len(samples) - 8} more" if len(samples) > 8 else "")
    first = position.batch - len(live.samples) // live.settings.batch_size + 1
    left = f"batch {first} was" if first == position.batch else f"batches {first} to {position.batch} were"
    return f"update `{turn.name}`: {guilty(turn)} is not finite; {left} left out\n    samples  {shown}"


def guilty(turn: LiveUpdate) -> str:
    """What was not finite: losses, or the values or gradients in which it shows."""
    if turn.evidence is None:
        return "something"
    losses = [f"`{turn.name}/{label}`" for label in turn.evidence.guilty]
    gradients = [f"the gradient of `{name}`" for name in turn.evidence.gradients]
    return ", ".join(losses or gradients[:3]) or "a gradient"


def roll_back(run: Run, live: LiveStep, turn: LiveUpdate, position: Position) -> None:
    """Put the step back to its last good state; the data go on. Raises TrainingError where that was in vain.

    An update that has not moved a weight yet has nothing to go back to, and ends the run at once. The state
    is that of the newest checkpoint that was due before the trouble began and whose numbers
    are all finite: it depends on the position alone, so a run that was stopped meanwhile does the same.
    """
    since = min(t.skipping_since for t in live.turns if t.skipped_in_a_row)
    message = f"update `{turn.name}`: {guilty(turn)} has not been finite for {PATIENCE} batches in a row"
    if live.rollbacks >= ROLLBACKS or turn.steps == 0:
        tried = f"{counted(live.rollbacks, 'time')} before, in vain" if live.rollbacks else NOTHING_TO_GO_BACK_TO
        raise TrainingError(Problem(message, None, (("rolled back", tried), *_bundles(run))))
    state, name = last_good(run, live, position.run_batch - position.step_batch + since)
    live.roll_back(state)
    told = f"{message}; weights and optimizers are those of {name} again, training goes on with the next batch"
    run.observers.warn(position, told)


def last_good(run: Run, live: LiveStep, run_batch: int) -> tuple[State, str]:
    """The state of the step as it was good last at or before a batch of the run, and what it is called."""
    run.checkpoints.collect(wait=True)
    for found in candidates(run, live, run_batch):
        try:
            manifest = checkpoints.verify(found.folder)
            if manifest["not_finite"] == []:
                return run.checkpoints.load_weights(found.folder, manifest)[0], f"checkpoint {found.folder.name}"
        except RunError:
            continue
    start_from(run, live.checked.parent)
    return run.prepare(live.facts).state(), "the step's beginning"


def candidates(run: Run, live: LiveStep, run_batch: int) -> list[checkpoints.Found]:
    """The checkpoints of the step at or before a batch of the run, newest first, that any run of this recipe has.

    Not those of a stop: a run that was never stopped has to come to the same weights.
    """
    found = checkpoints.listing(run.checkpoints.root)
    kinds = ("due", "best")
    return [f for f in found if f.kind in kinds and f.step == live.facts.name and f.run_batch <= run_batch]


def replay_checkpoints(run: Run, live: LiveStep, position: Position) -> list[checkpoints.Found]:
    """What a replay starts from: the newest checkpoint; what it may roll back to; the end of the step's parent."""
    found = checkpoints.listing(run.checkpoints.root)
    parents = [f for f in found if f.end and f.step == live.checked.parent]
    good = [f for f in candidates(run, live, position.run_batch) if checkpoints.is_finite(f.folder)]
    return list({f.folder: f for f in (*found[:1], *good[:1], *parents[:1])}.values())


def report_skipped(run: Run, live: LiveStep, position: Position) -> None:
    """At a step's end tell what has not started, and how many batches were left out.

    Raises TrainingError where an update has started and not moved a single weight.
    """
    for turn in live.turns:
        for name in turn.starts.idle(position.step_batch):
            starts = turn.checked.starts
            when = str(starts[name]) or str(starts[OWN]) or " or ".join(filter(None, map(str, starts.values())))
            ended = f"step `{live.facts.name}` ends after {counted(position.step_batch, 'batch')}"
            message = f"{called(turn.name, name)} has not started: it {when}, and {ended}"
            run.observers.warn(position, message)
        if turn.steps == 0 and turn.begun(position.step_batch):
            message = f"update `{turn.name}` of step `{live.facts.name}` has not moved a single weight"
            notes = (("left out", counted(turn.skips, "batch")),) if turn.skips else ()
            raise TrainingError(Problem(message, None, notes))
        if turn.skips:
            total = turn.skips + turn.steps
            message = f"update `{turn.name}`: {turn.skips} of {total} batches were left out as not finite"
            run.observers.warn(position, message)


def _bundles(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple(("look into it", replay_command(found)) for found in bundles(run.folder.path)[-1:])
