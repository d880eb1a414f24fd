"""The loop: steps, epochs and batches in order; after which of them it logs, measures, saves or stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

from attrs import evolve

from fluxflow_registry.check.metric_names import unmeasured
from fluxflow_registry.contracts import Ending, Position, Summary
from fluxflow_registry.engine.graph.calls import Interrupted
from fluxflow_registry.engine.run.evaluation import measure
from fluxflow_registry.engine.run.resume import State, enter, find_position
from fluxflow_registry.engine.run.rollback import check_finite, report_skipped, require_finite
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.engine.run.stopping import Stopped, waiting_for_each
from fluxflow_registry.engine.run.trained_models import write_final_models
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.state import checkpoints


def train(run: Run) -> None:
    """Train every step of the recipe from the run's position; raises Stopped when asked to stop."""
    position, state = find_position(run)
    try:
        run.observers.notify("run_started", position=position, resumed=position != Position())
        try:
            position = train_steps(run, position, state)
        finally:
            run.checkpoints.saver.close()
        write_final_models(run)
        try:
            run.observers.notify("run_ended", position=position, steps=run.plan.steps)
        except Interrupted:
            interrupted(run, position)
        run.folder.require()
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        run.observers.fail(error)
        raise
    run.folder.write_identity(finished=True)


def train_steps(run: Run, position: Position, state: State) -> Position:
    """Train the steps from a position on, the first from the state of its checkpoint; returns the last position."""
    while position.step < len(run.plan.steps):
        live = enter(run, position, state)
        position = train_step(run, live, position)
        state = {}
    return position


def train_step(run: Run, live: LiveStep, position: Position) -> Position:
    """Train one step to its end; returns the position after it."""
    try:
        run.observers.notify("step_started", step=live.plan, position=position)
        run.data.report_notes(live.plan, position)
        while live.ending is None:
            run.observers.notify("epoch_started", step=live.plan, position=position)
            for batch in waiting_for_each(run, live.batches(position.epoch, position.batch)):
                run.before_batch(position)
                run.data.report_replaced(live.settings.dataset, batch, position)
                live.run(batch, position)
                position = after_batch(run, live, position)
            position = end_epoch(run, live, position)
        return leave(run, live, position, live.ending)
    except Interrupted:
        stop(run, live, live.undo_open_window(position), "stop")


def after_batch(run: Run, live: LiveStep, position: Position) -> Position:
    """Count the batch; log, save and stop where that is due."""
    closed = live.closes_window(position.batch)
    position = position.after_batch()
    run.observers.notify("batch_ended", step=live.plan, position=position)
    last = position.batch == live.plan.batches
    if position.step_batch % live.settings.log_every == 0 or last:
        run.folder.require()
        metrics = live.metrics.logged()
        run.observers.notify("metrics_logged", step=live.plan, position=position, metrics=metrics)
        run.folder.record_position(position)
    if closed:
        check_finite(run, live, position)
    run.checkpoints.collect()
    # An epoch's last batch is saved once the epoch is closed; evaluating may take long before it is.
    if last and run.checkpoints.overdue:
        run.checkpoints.save(position, "latest", live)
    if closed and not last:
        save_or_stop(run, live, position, live.settings.accumulate, run.checkpoints.overdue)
    return position


def save_or_stop(run: Run, live: LiveStep, position: Position, passed: int, worthwhile: bool) -> None:
    """Save a checkpoint if one was due within the last `passed` batches, or is `worthwhile`; stop if requested.

    Nothing rolls back to one that was not due, as it depends on the clock. One that is due while batches are skipped is
    saved as that of a stop, to which nothing rolls back either.
    """
    every = live.settings.checkpoint_every
    due = position.step_batch // every != (position.step_batch - passed) // every
    kind: checkpoints.Kind = "due" if due and not live.skipping else "stop"
    if run.stopping:
        stop(run, live, position, kind)
    if due or worthwhile:
        run.checkpoints.save(position, kind if due else "latest", live)


def end_epoch(run: Run, live: LiveStep, position: Position) -> Position:
    """Evaluate what is due, close the epoch and check whether the step is over; returns the position after it.

    Evaluating and notifying come first: a run that stops meanwhile resumes at an epoch that is not closed yet.
    """
    done = evolve(position, epoch=position.epoch + 1, batch=0)
    results: dict[str, float] = {}
    for name, evaluation in live.plan.evaluations.items():
        every = evaluation.settings.every
        if every is not None and done.epoch % every == 0:
            first = name not in live.measured
            results.update(evaluated(run, live, position, name))
            measured_now = {name: run.history.results[live.plan.name][name]}
            for problem in unmeasured(live.plan, measured_now) if first else ():
                run.observers.warn(done, str(problem))
    summaries = live.metrics.summaries()
    run.observers.notify("epoch_ended", step=live.plan, position=done, summaries=summaries)
    live.metrics.close_epoch({**summaries, **{key: Summary(v, v, v, v) for key, v in results.items()}})
    run.history.close_epoch(live.plan.name, done.epoch, live.metrics.history)
    measured = {name: s.mean for name, s in summaries.items()} | results
    for update in live.updates:
        update.end_epoch(measured, done.step_batch)
    live.check_ending(done.epoch)
    for message in live.start_due(done.epoch, done.step_batch) if live.ending is None else ():
        run.observers.warn(done, message)
    best = is_best(live, measured) and not live.skipping
    if best:
        run.checkpoints.save(done, "best", live)
    if live.ending is None:
        save_or_stop(run, live, done, live.window(live.plan.batches - 1), not best and run.checkpoints.affordable)
    elif not best and (run.checkpoints.overdue or unmeasured_at_end(live, done)):
        run.checkpoints.save(done, "latest", live)  # the end of the step is saved once all is evaluated
    if live.ending is not None and live.ending.limit:
        run.observers.warn(done, f"step `{live.plan.name}` ends because it reached its limit: {live.ending.reason}")
    return done


def is_best(live: LiveStep, measured: Mapping[str, float]) -> bool:
    """Whether the epoch with these metrics is better than all before it, by the step's own criterion."""
    best = live.settings.best
    if best is None or best.metric not in measured:
        return False
    *before, latest = (summary.mean for summary in live.metrics.history[best.metric])
    if not math.isfinite(latest):
        return False
    return all(latest < mean if best.mode == "min" else latest > mean for mean in before if math.isfinite(mean))


def unmeasured_at_end(live: LiveStep, position: Position) -> list[str]:
    """The evaluations of a step that is over which its last epoch has not measured."""
    return [name for name in live.plan.evaluations if live.measured.get(name) != position.step_batch]


def evaluated(run: Run, live: LiveStep, position: Position, name: str) -> dict[str, float]:
    """Run one evaluation and notify observers; returns its metrics as `<evaluation>/<metric>`."""
    with live.aside():
        metrics = measure(run, live, live.plan.evaluations[name])
    live.measured[name] = position.step_batch
    run.history.results.setdefault(live.plan.name, {})[name] = metrics
    run.observers.notify("evaluated", step=live.plan, position=position, name=name, metrics=metrics)
    return {f"{name}/{metric}": value for metric, value in metrics.items()}


def leave(run: Run, live: LiveStep, position: Position, ending: Ending) -> Position:
    """End a step: evaluate everything, let averaged weights become the weights, save the end.

    A run that stops while evaluating resumes here: its checkpoint knows that the step is over.
    """
    report_skipped(run, live, position)
    require_finite(run, live, position)
    for name in unmeasured_at_end(live, position):
        evaluated(run, live, position, name)
    live.adopt_averages()
    run.observers.notify("step_ended", step=live.plan, position=position, ending=ending)
    after = Position(step=position.step + 1, run_batch=position.run_batch)
    run.checkpoints.save(after, "end", live, wait=True)
    if run.stopping and after.step < len(run.plan.steps):
        interrupted(run, after)
    return after


def stop(run: Run, live: LiveStep, position: Position, kind: checkpoints.Kind) -> NoReturn:
    """Save and raise Stopped."""
    run.checkpoints.save(position, kind, live, wait=True)
    interrupted(run, position)


def interrupted(run: Run, position: Position) -> NoReturn:
    """Notify observers that the run stops here, with a checkpoint, and raise Stopped."""
    run.observers.notify("run_interrupted", position=position, reason=run.stopping or "")
    raise Stopped(position)
