"""Which way a watched metric is better, and what that makes of a recipe that does not say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from fluxflow_registry.contracts import Better, Direction
from fluxflow_registry.errors import FluxflowError, Location, Problem
from fluxflow_registry.plan.checked import CheckedUpdate, ConfiguredComponent
from fluxflow_registry.recipe.schema import StepEntry
from fluxflow_registry.registry.registry import Component
from fluxflow_registry.registry.signature import gives_tensor, is_configurable

#: The component of a metric's type; None where nobody registers it.
Metrics = Callable[[str], Component | None]

#: What a metric says: one direction, or one for each figure of a dict.
Said = Direction | Mapping[str, Direction]


def directed(
    step: StepEntry,
    updates: Sequence[CheckedUpdate | None],
    until: ConfiguredComponent | None,
    metrics: Metrics,
    attempt: Callable[[str, Location | None, Callable[[], Any]], Any],
) -> tuple[StepEntry, list[CheckedUpdate | None], ConfiguredComponent | None]:
    """A step with a direction wherever the recipe leaves it to the metric that is watched.

    `attempt` tells what a component raises as a problem of the recipe, and gives None then.
    """

    def turned(watcher: ConfiguredComponent | None) -> ConfiguredComponent | None:
        if watcher is None or not hasattr(watcher.instance, "directed"):
            return watcher
        what = f"`directed` of {watcher.component.kind} `{watcher.component.name}`"
        better = better_in(step, metrics, watcher.where)
        made = attempt(what, watcher.where, lambda: watcher.instance.directed(better))
        return watcher if made is None else attrs.evolve(watcher, instance=made)

    def whole(update: CheckedUpdate | None) -> CheckedUpdate | None:
        if update is None:
            return None
        starts = {name: attrs.evolve(start, condition=turned(start.condition)) for name, start in update.starts.items()}
        return attrs.evolve(update, scheduler=turned(update.scheduler), starts=starts)

    best = step.settings.best
    if best is not None and best.mode is None:
        where = step.node.at("best", "metric")
        way = attempt("`best`", where, partial(better_in(step, metrics, where), best.metric))
        stated = attrs.evolve(best, mode="max" if way == "higher" else "min")
        step = attrs.evolve(step, settings=attrs.evolve(step.settings, best=stated))
    return step, [whole(update) for update in updates], turned(until)


def better_in(step: StepEntry, metrics: Metrics, where: Location) -> Better:
    """For each name of a figure of a step: whether less or more of it is better; what training logs is a loss."""

    def better(name: str) -> Direction:
        evaluation, _, figure = name.partition("/")
        measured = step.evaluate.get(evaluation)
        if measured is None:
            return "lower"
        known = {label: metrics(entry.type) for label, entry in measured.metrics.items()}
        said = {label: said_by(component) for label, component in known.items() if component is not None}
        label, _, own = figure.partition("/")
        if figure in said or (own and label in said):
            return _of(said.get(figure, said[label]), own or figure)
        named = {each[figure] for each in said.values() if isinstance(each, Mapping) and figure in each}
        several = {label for label, which in known.items() if which and not gives_tensor(which.factory)}
        found = named or {each for label, each in said.items() if label in several and not isinstance(each, Mapping)}
        if len(found) > 1:
            hint = ("state it", "`mode`: min or below where less is better, max or above where more is")
            raise FluxflowError(Problem(f"which way `{name}` is better is not known", where, (hint,)))
        return found.pop() if found else "lower"

    return better


def said_by(metric: Component) -> Said:
    """What a metric says in its attribute `better`; raises FluxflowError for what is no direction."""
    factory = metric.factory
    if is_configurable(factory) and any(each.name == "better" for each in attrs.fields(factory)):
        return "lower"  # an option of its own
    said: Any = getattr(factory, "better", "lower")
    stated = list(said.values()) if isinstance(said, Mapping) else [said]
    if all(isinstance(each, str) and each in ("lower", "higher") for each in stated):
        return said  # type: ignore[no-any-return]
    message = f"metric `{metric.name}`: `better` is {said!r}; it is `lower`, `higher`, or a dict of figures to these"
    raise FluxflowError(Problem(message, metric.signature.where))


def _of(said: Said, figure: str) -> Direction:
    return said.get(figure, "lower") if isinstance(said, Mapping) else said
