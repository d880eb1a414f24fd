"""The loop: for each step, for each epoch, for each batch, each update in its turn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from fluxflow_registry.contracts import Ending, Position, Summary
from fluxflow_registry.engine.evaluation import measure
from fluxflow_registry.engine.run import Run
from fluxflow_registry.engine.step import LiveStep
from fluxflow_registry.errors import Problem, RunError, TrainingError, counted
from fluxflow_registry.state import store

#: Batches in a row that may be left out because something was not finite.
PATIENCE = 20


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run has stopped with a checkpoint saved."""

    def __init__(self, position: Position) -> None:
        super().__init__("stopped")
        self.position = position


def train(run: Run) -> None:
    """Train every step of the recipe from wherever the run stands; raises Stopped when asked to stop."""
    position, state = find_position(run)
    run.tell("run_started", position=position, resumed=position != Position())
    for facts in run.steps[position.step :]:
        live = enter(run, position, state)
        run.tell("step_started", step=facts, position=position)
        ending = live.ending(position.epoch) if state else None
        while ending is None:
            run.tell("epoch_started", step=facts, position=position)
            for batch in live.batches(position.epoch, position.batch):
                live.take(batch, position)
                position = after_batch(run, live, position)
            position, ending = end_epoch(run, live, position)
        position = leave(run, live, position, ending)
        state = {}
    run.write_final()
    run.run_folder.write_identity(finished=True)
    run.tell("run_ended", position=position, steps=run.steps)


def find_position(run: Run) -> tuple[Position, Mapping[str, Mapping[str, Any]]]:
    """Where the newest checkpoint that verifies stands; a damaged one is named and laid aside.

    Raises RunError where a whole checkpoint does not fit the recipe's models: that is no damage.
    """
    store.tidy(run.run_folder.checkpoints)
    for found in store.listing(run.run_folder.checkpoints):
        try:
            store.verify(found.folder)
        except RunError as error:
            aside = store.lay_aside(found.folder)
            message = f"{error}\n    it is laid aside as {aside.name}, and the checkpoint before it is used"
            run.tell("warned", position=Position(), message=message)
            continue
        state, meta = run.load_weights(found.folder)
        run.results = meta["results"]
        position = Position(**meta["position"])
        return position, {} if found.end else state
    return Position(), {}


def enter(run: Run, position: Position, state: Mapping[str, Mapping[str, Any]]) -> LiveStep:
    """Make a step ready: its parent's weights, its own optimizers, and its state when it is re-entered."""
    facts = run.steps[position.step]
    if not state:
        start_from_parent(run, facts.checked.parent, position)
    source = run.sources[facts.checked.step.settings.dataset]
    sampler = run.checked.sampler.instance if run.checked.sampler else None
    live = LiveStep(facts, source, run.models, run.seed, run.device, sampler)
    if state:
        live.load(state)
    run.live = live
    return live


def start_from_parent(run: Run, parent: str | None, position: Position) -> None:
    """Give the models the weights in which the parent step ended (new ones, where there is no parent)."""
    before = run.steps[position.step - 1].name if position.step else None
    if parent == before:
        return
    if parent is None:
        run.reset_models()
        return
    ends = [f for f in store.listing(run.run_folder.checkpoints) if f.end and f.step == parent]
    if not ends:
        message = f"the end of step `{parent}`, from which the next step starts, is not there"
        raise RunError(Problem(message, str(run.run_folder.checkpoints)))
    run.load_weights(ends[0].folder)


def after_batch(run: Run, live: LiveStep, position: Position) -> Position:
    """Count the batch; log, save and stop where it is time to."""
    closed = live.closes_window(position.batch)
    position = evolve(
        position,
        batch=position.batch + 1,
        step_batch=position.step_batch + 1,
        run_batch=position.run_batch + 1,
    )
    run.tell("batch_ended", step=live.facts, position=position)
    last = position.batch == live.facts.batches
    if position.step_batch % live.settings.log_every == 0 or last:
        metrics = live.tally.fetch()
        run.tell("metrics_logged", step=live.facts, position=position, metrics=metrics)
    check_finite(run, live, position)
    # An epoch's last batch is saved, where it is saved, once the epoch is closed.
    if last or not closed:
        return position
    if run.stopping:
        stop(run, position)
    if is_due(live, position, live.settings.accumulate):
        run.save(position)
    return position


def is_due(live: LiveStep, position: Position, passed: int) -> bool:
    """Whether the last `passed` batches hold one after which a checkpoint is due."""
    every = live.settings.checkpoint_every
    return position.step_batch // every != (position.step_batch - passed) // every


def not_finite(live: LiveStep, update: str) -> list[str]:
    """The losses of an update that were not finite in the latest batch."""
    latest = live.tally.fetch()
    losses = [f"{update}/{label}" for label in live.checked.updates[update].losses]
    return [name for name in losses if not math.isfinite(latest.get(name, 0.0))]


def check_finite(run: Run, live: LiveStep, position: Position) -> None:
    """Warn of a batch that was left out because something was not finite; give up after many in a row."""
    for turn in live.turns:
        if turn.outcome == "skipped" and turn.skipped_in_a_row == 1:
            bad = ", ".join(f"`{name}`" for name in not_finite(live, turn.name)) or "a gradient"
            message = f"update `{turn.name}`: {bad} is not finite; batch {position.batch} was left out"
            run.tell("warned", position=position, message=message)
        if turn.skipped_in_a_row >= PATIENCE:
            guilty = not_finite(live, turn.name)
            notes = (("not finite", ", ".join(guilty)),) if guilty else ()
            message = f"update `{turn.name}`: no finite loss or gradient for {PATIENCE} batches in a row"
            raise TrainingError(Problem(message, None, notes))


def report_skipped(run: Run, live: LiveStep, position: Position) -> None:
    """At a step's end tell how many batches were left out; raise TrainingError where that was all of them."""
    for turn in live.turns:
        if turn.steps == 0:
            message = f"update `{turn.name}` of step `{live.facts.name}` has not moved a single weight"
            notes = (("left out", counted(turn.skips, "batch")),) if turn.skips else ()
            raise TrainingError(Problem(message, None, notes))
        if turn.skips:
            message = (
                f"update `{turn.name}`: {turn.skips} of {turn.skips + turn.steps} batches were left out as not finite"
            )
            run.tell("warned", position=position, message=message)


def end_epoch(run: Run, live: LiveStep, position: Position) -> tuple[Position, Ending | None]:
    """Measure what is due and close the epoch; gives the position after it, and the ending if the step is over.

    Measuring comes first: a run that stops meanwhile comes back to an epoch that is not closed yet.
    """
    done = evolve(position, epoch=position.epoch + 1, batch=0)
    figures: dict[str, float] = {}
    for name, evaluation in live.checked.evaluations.items():
        every = evaluation.evaluation.settings.every
        if every is not None and done.epoch % every == 0:
            figures.update(evaluated(run, live, position, name))
    summaries = live.tally.close_epoch()
    live.tally.record({key: Summary(v, v, v, v) for key, v in figures.items()})
    for turn in live.turns:
        summary = summaries.get(f"{turn.name}_loss")
        turn.end_epoch(summary.mean if summary else float("inf"))
    run.tell("epoch_ended", step=live.facts, position=done, summaries=summaries)
    ending = live.ending(done.epoch)
    if ending is None:
        if run.stopping:
            stop(run, done)
        if is_due(live, done, live.window(live.facts.batches - 1)):
            run.save(done)
    elif ending.limit:
        run.tell("warned", position=done, message=f"step `{live.facts.name}` ends by its limit: {ending.reason}")
    return done, ending


def evaluated(run: Run, live: LiveStep, position: Position, name: str) -> dict[str, float]:
    """Measure one evaluation and tell of it; gives its metrics as `<evaluation>/<metric>`."""
    metrics = measure(run, live, live.checked.evaluations[name], lambda: run.stopping is not None)
    if metrics is None:
        stop(run, position)
        return {}
    live.measured[name] = position.step_batch
    run.results.setdefault(live.facts.name, {})[name] = metrics
    run.tell("evaluated", step=live.facts, position=position, name=name, metrics=metrics)
    return {f"{name}/{metric}": value for metric, value in metrics.items()}


def leave(run: Run, live: LiveStep, position: Position, ending: Ending) -> Position:
    """End a step: everything is measured, averaged weights become the weights, the end is saved.

    A run that stops while measuring comes back here: whether a step is over follows from its history.
    """
    report_skipped(run, live, position)
    for name in live.checked.evaluations:
        if live.measured.get(name) != position.step_batch:
            evaluated(run, live, position, name)
    live.adopt_averages()
    run.tell("step_ended", step=live.facts, position=position, ending=ending)
    after = Position(step=position.step + 1, run_batch=position.run_batch)
    folder = run.save(after, ended=live.facts.name)
    if run.stopping and after.step < len(run.steps):
        interrupted(run, after, folder)
    return after


def stop(run: Run, position: Position) -> None:
    """Save and raise Stopped."""
    interrupted(run, position, run.save(position))


def interrupted(run: Run, position: Position, folder: Path) -> None:
    """Tell that the run stops here, with its checkpoint, and raise Stopped."""
    run.tell("run_interrupted", position=position, reason=run.stopping or "")
    raise Stopped(position)
