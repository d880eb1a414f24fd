"""The metrics and losses of a step, and what is wrong with naming one that it does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from fluxflow_registry.errors import Location, Problem, choices
from fluxflow_registry.plan.checked import CheckedStep, CheckedUpdate, ConfiguredComponent, called, mention
from fluxflow_registry.recipe.schema import FIGURES, OWN, EvaluationEntry, RecipeEntry, StepEntry, UpdateEntry

#: A metric that is watched: its name, who watches it, and where the recipe says so.
Wish = tuple[str, str, Location]

#: The names of what an evaluation measures; None where a metric of it names its figures itself.
Figures = Callable[[EvaluationEntry], Collection[str] | None]

#: What starts by a condition: the name of an update, and the label of a loss or OWN.
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
            names.extend(f"{update.name}/{name}" for name in (*losses, *sorted(FIGURES), *changing))
    return names


def weight_changes(update: UpdateEntry, label: str) -> bool:
    """Whether the weight of a loss is another from batch to batch, so that it is logged."""
    return update.balancer is not None or update.losses[label].settings.warmup > 0


def watched(step: StepEntry, name: str, who: str, where: Location, figures: Figures | None = None) -> Problem | None:
    """What is wrong where `who` watches metric `name` after each epoch: it would wait for ever.

    `figures` tells what an evaluation measures; None where that is known only once it has measured.
    """
    logged = logged_metrics(step)
    measured = step.evaluate.get(name.partition("/")[0])
    if measured is not None and measured.settings.every is None:
        hint = ("state it", f"`every: 1` in evaluation `{measured.name}`")
        return Problem(f"{who} watches `{name}`, which is measured at the end only", where, (hint,))
    known = figures(measured) if figures is not None and measured is not None else None
    if measured is not None and known is not None and name.partition("/")[2] not in known:
        message = f"{who} watches `{name}`, which evaluation `{measured.name}` does not measure"
        return Problem(message, where, choices(name, [f"{measured.name}/{each}" for each in known], "measured"))
    if name not in logged and measured is None:
        message = f"{who} watches `{name}`, which step `{step.name}` does not log"
        return Problem(message, where, choices(name, logged, "logged"))
    return None


def unwatchable(
    step: StepEntry,
    until: ConfiguredComponent | None,
    updates: Iterable[CheckedUpdate | None],
    watches: Callable[[ConfiguredComponent], Iterable[str]],
    figures: Figures,
) -> list[Problem]:
    """What is wrong with the metrics that a best checkpoint, a transition, schedulers and starts wait for.

    `watches` tells the metrics of a transition, `figures` those of an evaluation.
    """
    wishes = [(step.settings.best.metric, "`best`", step.node.at("best", "metric"))] if step.settings.best else []
    if until is not None:
        wishes += _wishes(until, f"transition `{until.component.name}`", watches)
    whole = [update for update in updates if update is not None]
    for update in whole:
        metric = getattr(update.scheduler.instance, "metric", None) if update.scheduler else None
        if update.scheduler and metric is not None:
            where = step.updates[update.name].node.at("scheduler", "metric")
            wishes.append((metric, f"scheduler `{update.scheduler.component.name}`", where))
    late = {
        (update.name, label): _wishes(start.condition, f"`start` of {called(update.name, label)}", watches)
        for update in whole
        for label, start in update.starts.items()
        if start.condition is not None
    }
    found = [watched(step, *wish, figures) for wish in (*wishes, *(wish for each in late.values() for wish in each))]
    return [*(problem for problem in found if problem is not None), *_vain(step, late)]


def unmeasured(step: CheckedStep, known: Mapping[str, Collection[str] | None]) -> list[Problem]:
    """Names that a step watches, and that its evaluations do not measure; `known` is what each is seen to measure."""

    def watches(watcher: ConfiguredComponent) -> list[str]:
        return list(watcher.instance.metrics()) if hasattr(watcher.instance, "metrics") else []

    updates = step.updates.values()
    return unwatchable(step.step, step.until, updates, watches, lambda evaluation: known.get(evaluation.name))


def unlogged(
    recipe: RecipeEntry,
    observers: Iterable[ConfiguredComponent],
    watches: Callable[[ConfiguredComponent], Iterable[str]],
) -> Iterator[Problem]:
    """Metrics of training that observers name, and that no step logs: what is said of them would do nothing."""
    steps = recipe.steps.values()
    if "steps" in recipe.unread or any(update.partial for step in steps for update in step.updates.values()):
        return
    logged = {name for step in steps for name in logged_metrics(step)}
    for observer in observers:
        for name in watches(observer):
            if name not in logged:
                message = f"observer `{observer.label}` names the metric `{name}`, which no step logs"
                yield Problem(message, mention(observer, name), choices(name, logged, "logged"))


def withdrawn_losses(update: UpdateEntry) -> dict[str, Location]:
    """Labels of the losses that `false` takes away, each with its place."""
    losses = update.node.get("losses")
    stated = losses.value if losses is not None and isinstance(losses.value, dict) else {}
    return {label: node.where for label, node in stated.items() if node.value is False}


def unknown_losses(update: UpdateEntry, balancer: ConfiguredComponent, named: Iterable[str]) -> Iterator[Problem]:
    """Losses that a balancer names and that its update does not have."""
    for label in () if update.partial else named:
        if label not in update.losses:
            who = f"balancer `{balancer.component.name}` of update `{update.name}`"
            message = f"{who} names the loss `{label}`, which the update does not have"
            yield Problem(message, mention(balancer, label), choices(label, update.losses, "losses"))


def _wishes(
    transition: ConfiguredComponent, who: str, watches: Callable[[ConfiguredComponent], Iterable[str]]
) -> list[Wish]:
    where = transition.entry.node.at("metric") if transition.entry else transition.where
    return [(name, who, where) for name in watches(transition)]


def _vain(step: StepEntry, late: Mapping[Late, Sequence[Wish]]) -> Iterator[Problem]:
    """Starts that wait for a metric which is logged, but not before they themselves, or others in a ring, start."""
    waiting = {each: wishes for each, wishes in late.items() if not any(watched(step, *wish) for wish in wishes)}
    vain: dict[Late, list[Wish]] = {}
    while True:
        vain = {each: [wish for wish in wishes if _later(step, wish[0], waiting)] for each, wishes in waiting.items()}
        ready = [each for each, wishes in vain.items() if not wishes]
        if not ready:
            break
        waiting = {each: wishes for each, wishes in waiting.items() if each not in ready}
    for name, who, where in (wish for wishes in vain.values() for wish in wishes):
        hint = choices(name, logged_metrics(step, waiting), "logged before")
        yield Problem(f"{who} watches `{name}`, which nothing logs before that start", where, hint)


def _later(step: StepEntry, name: str, waiting: Collection[Late]) -> bool:
    """Whether a metric is not there before some of what is `waiting` has started."""
    return name.partition("/")[0] not in step.evaluate and name not in logged_metrics(step, waiting)
