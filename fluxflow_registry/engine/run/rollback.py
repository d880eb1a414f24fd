"""When losses or gradients are not finite: batches are skipped, and after many in a row training rolls back."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.order import names_of
from fluxflow_registry.engine.diagnosis.bundle import write_bundle
from fluxflow_registry.engine.run.folder import bundles, replay_command
from fluxflow_registry.engine.run.resume import State, start_from
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.engine.training.update import LiveUpdate
from fluxflow_registry.errors import Note, Problem, RunError, TrainingError, counted
from fluxflow_registry.recipe.schema import OWN
from fluxflow_registry.state import checkpoints

#: Batches in a row that may be skipped before training rolls back.
PATIENCE = 20

#: How often a step may roll back before the run ends with an error.
ROLLBACKS = 3


def check_finite(run: Run, live: LiveStep, position: Position) -> None:
    """After a batch: report what was skipped, with the evidence in a bundle; roll back after many in a row."""
    for update in live.updates:
        if update.outcome == "skipped" and update.skipped_in_a_row == 1:
            run.checkpoints.collect(wait=True)
            bundle = write_bundle(run, live, update, position, replay_checkpoints(run, live, position))
            run.observers.warn(position, str(_skipped(live, update, position, bundle)))
    stuck = next((update for update in live.updates if update.skipped_in_a_row >= PATIENCE), None)
    if stuck is not None:
        roll_back(run, live, stuck, position)


def _skipped(live: LiveStep, update: LiveUpdate, position: Position, bundle: tuple[Note, ...]) -> Problem:
    """Which batch was skipped, what was not finite in it, its samples, and its bundle."""
    samples = update.evidence.samples(live.samples) if update.evidence else live.samples
    names = names_of(live.source, samples[:8])
    shown = ", ".join(names) + (f", and {len(samples) - 8} more" if len(samples) > 8 else "")
    first = position.batch - len(live.samples) // live.settings.batch_size + 1
    skipped = f"batch {first} was" if first == position.batch else f"batches {first} to {position.batch} were"
    message = f"update `{update.name}`: {_not_finite(update)} is not finite; {skipped} skipped"
    notes = (("received", f"samples {shown}"), *bundle)
    return Problem(message, None, notes, code="not-finite", subject=update.name)


def _not_finite(update: LiveUpdate) -> str:
    """What was not finite: losses, or the gradients in which it shows."""
    if update.evidence is None:
        return "something"
    losses = [f"`{update.name}/{label}`" for label in update.evidence.losses_not_finite]
    gradients = [f"the gradient of `{name}`" for name in update.evidence.gradients]
    return ", ".join(losses or gradients[:3]) or "a gradient"


def roll_back(run: Run, live: LiveStep, update: LiveUpdate, position: Position) -> None:
    """Restore the step's last good state; the data continue. Raises TrainingError where rolling back does not help.

    An update that has not changed a weight yet has no such state, and ends the run at once. The state is that of the
    newest checkpoint that was due before the trouble began and whose numbers are all finite: it depends on the
    position alone, so a run that was stopped in between does the same.
    """
    message = f"update `{update.name}`: {_not_finite(update)} has not been finite for {PATIENCE} batches in a row"
    if live.rollbacks >= ROLLBACKS or update.steps == 0:
        status = f"already rolled back {counted(live.rollbacks, 'time')} without success"
        if not live.rollbacks:
            status = "no batch of this update has been finite yet, so there is no good state to roll back to"
        notes = [("status", status), *(("command", replay_command(found)) for found in bundles(run.folder.path)[-1:])]
        raise TrainingError(Problem(message, None, tuple(notes), code="not-finite", subject=update.name))
    since = min(each.skipping_since for each in live.updates if each.skipped_in_a_row)
    state, name = last_good(run, live, position.run_batch - position.step_batch + since)
    live.roll_back(state)
    restored = f"weights and optimizers are restored from {name}, and training continues with the next batch"
    run.observers.warn(position, f"{message}; {restored}")


def last_good(run: Run, live: LiveStep, run_batch: int) -> tuple[State, str]:
    """The last good state of the step at or before a batch of the run, and where it comes from."""
    run.checkpoints.collect(wait=True)
    for found in candidates(run, live, run_batch):
        with suppress(RunError):
            manifest = checkpoints.verify(found.folder)
            if manifest["not_finite"] == []:
                return run.checkpoints.load_weights(found.folder, manifest)[0], f"checkpoint {found.folder.name}"
    start_from(run, live.plan.parent)
    return run.prepare(live.plan).state(), "the start of the step"


def candidates(run: Run, live: LiveStep, run_batch: int) -> list[checkpoints.Found]:
    """The checkpoints of the step at or before a batch of the run, newest first, that every run of this recipe has.

    Not those of a stop: a run that was never stopped must come to the same weights.
    """
    found = checkpoints.listing(run.folder.checkpoints)
    kinds = ("due", "best")
    return [f for f in found if f.kind in kinds and f.step == live.plan.name and f.run_batch <= run_batch]


def replay_checkpoints(run: Run, live: LiveStep, position: Position) -> list[checkpoints.Found]:
    """What a replay starts from: the newest checkpoint; what it may roll back to; the end of the step's parent.

    The `latest` is soon removed, and a link to it would keep all of it on the disk, so it is used only if there is no
    other.
    """
    found = checkpoints.listing(run.folder.checkpoints)
    newest = [f for f in found if f.kind != "latest" and f.step == live.plan.name] or found
    parents = [f for f in found if f.kind == "end" and f.step == live.plan.parent]
    good = [f for f in candidates(run, live, position.run_batch) if checkpoints.is_finite(f.folder)]
    return list({f.folder: f for f in (*newest[:1], *good[:1], *parents[:1])}.values())


def require_finite(run: Run, live: LiveStep, position: Position) -> None:
    """At a step's end within a series of skipped batches, raise TrainingError where its weights are to blame.

    They are where the batches that would come next are not finite either; else the batches were.
    """
    stuck = [update for update in live.updates if update.skipped_in_a_row]
    for batch in islice(live.batches(position.epoch, 0), PATIENCE) if stuck else ():
        stuck = [update for update in stuck if not live.is_finite(update, batch, position.step_batch)]
        if not stuck:
            return
    if stuck:
        raise TrainingError([_ruined(run, live, update) for update in stuck])


def _ruined(run: Run, live: LiveStep, update: LiveUpdate) -> Problem:
    message = f"step `{live.plan.name}` ends with weights for which {_not_finite(update)} is not finite"
    skipped = f"the last {counted(update.skipped_in_a_row, 'batch')} of update `{update.name}` were skipped"
    notes = [("status", f"{skipped}, and the batches after them would be"), ("hint", "lower `lr`")]
    notes += [("command", replay_command(found)) for found in bundles(run.folder.path)[-1:]]
    return Problem(message, None, tuple(notes), code="not-finite", subject=update.name)


def report_skipped(run: Run, live: LiveStep, position: Position) -> None:
    """At a step's end report what has not started, and how many batches were skipped.

    Raises TrainingError where an update has started and not changed a single weight.
    """
    for update in live.updates:
        plan = update.plan
        for name in update.starts.idle(position.step_batch):
            descriptions = [start.description for start in plan.starts.values()]
            own = plan.starts[name].description or plan.starts[OWN].description
            when = own or " or ".join(filter(None, descriptions))
            ended = f"step `{live.plan.name}` ended after {counted(position.step_batch, 'batch')}"
            run.observers.warn(position, f"{plan.title(name)} has not started: it {when}, but {ended}")
        if update.steps == 0 and update.has_started(position.step_batch):
            message = f"update `{update.name}` of step `{live.plan.name}` has not changed a single weight"
            notes = (("cause", f"{counted(update.skips, 'batch')} were skipped as not finite"),) if update.skips else ()
            raise TrainingError(Problem(message, None, notes, code="not-finite", subject=update.name))
        if update.skips:
            total = update.skips + update.steps
            message = f"update `{update.name}`: {update.skips} of {total} batches were skipped as not finite"
            run.observers.warn(position, message)
