"""The metrics and losses of a step, and what is wrong with naming one that it does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from fluxflow_registry.contracts import SchedulerExtras
from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.updates import UpdatePlan, WhenMet
from fluxflow_registry.recipe.schema import OWN, UPDATE_METRICS, EvaluationEntry, RecipeEntry, StepEntry, UpdateEntry


@frozen
class Watch:
    """A metric that is watched: its name, who watches it, and where the recipe names it."""

    metric: str
    who: str
    where: Location


#: The names of what an evaluation measures; None where a metric of it names its results itself.
Measured = Callable[[EvaluationEntry], Collection[str] | None]

#: The metrics that a transition or an observer watches.
Watched = Callable[[ConfiguredComponent], Iterable[str]]

#: What starts on a condition: the name of an update, and the label of a loss or OWN.
Late = tuple[str, str]


def logged_metrics(step: StepEntry, without: Collection[Late] = ()) -> list[str]:
    """The metrics that training logs while what is `without` has not started.

    `<update>_loss`, `<update>/<loss>`, `<update>/grad_norm`, `<update>/lr`, and `<update>/<loss>/weight` of a weight
    that changes.
    """
    names = []
    for update in step.updates.values():
        losses = [label for label in update.losses if not {(update.name, OWN), (update.name, label)} & set(without)]
        if losses:
            changing = [f"{label}/weight" for label in losses if weight_changes(update, label)]
            names.append(f"{update.name}_loss")
            names.extend(f"{update.name}/{name}" for name in (*losses, *sorted(UPDATE_METRICS), *changing))
    return names


def weight_changes(update: UpdateEntry, label: str) -> bool:
    """Whether the weight of a loss changes from batch to batch, so that it is logged."""
    return update.balancer is not None or update.losses[label].settings.warmup > 0


def _unwatchable(step: StepEntry, watch: Watch, measured: Measured) -> Problem | None:
    """What is wrong where a metric is watched that is never there after an epoch: the watcher would wait forever."""
    name, who, where = watch.metric, watch.who, watch.where
    evaluation = step.evaluate.get(name.partition("/")[0])
    if evaluation is None:
        logged = logged_metrics(step)
        if name in logged:
            return None
        message = f"{who} watches `{name}`, but step `{step.name}` logs no such metric"
        return Problem(message, where, code="unknown-name", subject=name, choices=logged)
    if evaluation.settings.every is None:
        hint = ("hint", f"set `every: 1` in evaluation `{evaluation.name}`")
        message = f"{who} watches `{name}`, but evaluation `{evaluation.name}` runs only at the end of the step"
        return Problem(message, where, (hint,), code="unused", subject=name)
    known = measured(evaluation)
    if known is None or name.partition("/")[2] in known:
        return None
    message = f"{who} watches `{name}`, but evaluation `{evaluation.name}` does not measure it"
    return Problem(
        message, where, code="unknown-name", subject=name, choices=[f"{evaluation.name}/{each}" for each in known]
    )


def unwatchable(
    step: StepEntry,
    until: ConfiguredComponent | None,
    updates: Iterable[UpdatePlan],
    watched: Watched,
    measured: Measured,
) -> list[Problem]:
    """What is wrong with the metrics that a best checkpoint, a transition, schedulers and starts wait for."""
    watches = [Watch(step.settings.best.metric, "`best`", step.node.at("best", "metric"))] if step.settings.best else []
    if until is not None:
        watches += _watches(until, f"transition `{until.name}`", watched)
    late: dict[Late, list[Watch]] = {}
    for update in updates:
        metric = SchedulerExtras.of(update.scheduler.instance).metric if update.scheduler else None
        if update.scheduler and metric is not None:
            where = update.entry.node.at("scheduler", "metric")
            watches.append(Watch(metric, f"scheduler `{update.scheduler.name}`", where))
        for label, start in update.starts.items():
            if isinstance(start, WhenMet):
                who = f"`start` of {update.title(label)}"
                late[update.name, label] = _watches(start.condition, who, watched)
    every = (*watches, *(watch for each in late.values() for watch in each))
    found = [_unwatchable(step, watch, measured) for watch in every]
    return [*(problem for problem in found if problem is not None), *_never_logged(step, late)]


def unmeasured(step: StepPlan, known: Mapping[str, Collection[str] | None]) -> list[Problem]:
    """Names that a step watches, and that its evaluations do not measure; `known` is what each is seen to measure."""

    def measured(evaluation: EvaluationEntry) -> Collection[str] | None:
        return known.get(evaluation.name)

    watched = ConfiguredComponent.watched_metrics
    return unwatchable(step.entry, step.until, step.updates.values(), watched, measured)


def unlogged(recipe: RecipeEntry, observers: Iterable[ConfiguredComponent], watched: Watched) -> Iterator[Problem]:
    """Metrics of training that observers name, and that no step logs: their options would do nothing."""
    steps = recipe.steps.values()
    if "steps" in recipe.unread or any(update.partial for step in steps for update in step.updates.values()):
        return
    logged = {name for step in steps for name in logged_metrics(step)}
    for observer in observers:
        for name in watched(observer):
            if name not in logged:
                message = f"observer `{observer.label}` names the metric `{name}`, but no step logs it"
                yield Problem(message, observer.place_of(name), code="unknown-name", subject=name, choices=logged)


def removed_losses(update: UpdateEntry) -> dict[str, Location]:
    """Labels of the losses that the recipe removes with `false`, each with its location."""
    losses = update.node.get("losses")
    entries = losses.value if losses is not None and isinstance(losses.value, dict) else {}
    return {label: node.where for label, node in entries.items() if node.value is False}


def unknown_losses(update: UpdateEntry, balancer: ConfiguredComponent, named: Iterable[str]) -> Iterator[Problem]:
    """Losses that a balancer names and that its update does not have."""
    for label in () if update.partial else named:
        if label not in update.losses:
            who = f"balancer `{balancer.name}` of update `{update.name}`"
            message = f"{who} names the loss `{label}`, but the update has no such loss"
            yield Problem(message, balancer.place_of(label), code="unknown-name", subject=label, choices=update.losses)


def _watches(transition: ConfiguredComponent, who: str, watched: Watched) -> list[Watch]:
    where = transition.entry.node.at("metric") if transition.entry else transition.where
    return [Watch(name, who, where) for name in watched(transition)]


def _never_logged(step: StepEntry, late: Mapping[Late, Sequence[Watch]]) -> Iterator[Problem]:
    """Starts that wait for a metric which is not logged before they themselves, or others in a circle, start."""
    waiting = {
        each: watches
        for each, watches in late.items()
        if not any(_unwatchable(step, watch, lambda _: None) for watch in watches)
    }
    blocked: dict[Late, list[Watch]] = {}
    while True:
        blocked = {
            each: [watch for watch in watches if _is_later(step, watch.metric, waiting)]
            for each, watches in waiting.items()
        }
        ready = [each for each, watches in blocked.items() if not watches]
        if not ready:
            break
        waiting = {each: watches for each, watches in waiting.items() if each not in ready}
    for watch in (watch for watches in blocked.values() for watch in watches):
        cause = f"it watches `{watch.metric}`, which is logged only after that start"
        message = f"{watch.who} would never be reached: {cause}"
        yield Problem(message, watch.where, code="cycle", subject=watch.metric, choices=logged_metrics(step, waiting))


def _is_later(step: StepEntry, name: str, waiting: Collection[Late]) -> bool:
    """Whether a metric is not there before some of what is `waiting` has started."""
    return name.partition("/")[0] not in step.evaluate and name not in logged_metrics(step, waiting)
