"""Whether lower or higher is better for a watched metric, where the recipe leaves that to the metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import attrs

from fluxflow_registry.contracts import Better, Directed, Direction, MetricExtras
from fluxflow_registry.errors import FluxflowError, Location
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.updates import Start, UpdatePlan, WhenMet
from fluxflow_registry.recipe.schema import StepEntry
from fluxflow_registry.registry.registry import Component
from fluxflow_registry.registry.signature import returns_tensor

#: The component of a metric's type; None where it is not registered.
MetricComponent = Callable[[str], Component | None]

#: What a metric declares: one direction, or one for each metric of the dict that it returns.
Declared = Direction | Mapping[str, Direction]


def with_directions(
    step: StepEntry,
    updates: Sequence[UpdatePlan],
    until: ConfiguredComponent | None,
    metric: MetricComponent,
    attempt: Callable[[str, Location | None, Callable[[], Any]], Any],
) -> tuple[StepEntry, list[UpdatePlan], ConfiguredComponent | None]:
    """A step with a direction wherever the recipe leaves it to the metric that is watched.

    `attempt` reports what a component raises as a problem of the recipe, and returns None then.
    """

    def directed(watcher: ConfiguredComponent | None) -> ConfiguredComponent | None:
        if watcher is None:
            return None
        what = f"`directed` of {watcher.component.kind} `{watcher.name}`"
        better = better_in(step, metric, watcher.where)
        instance = attempt(what, watcher.where, lambda: Directed.of(watcher.instance).directed(better))
        return watcher if instance is None else attrs.evolve(watcher, instance=instance)

    def directed_start(start: Start) -> Start:
        condition = directed(start.condition) if isinstance(start, WhenMet) else None
        return start if condition is None else WhenMet(condition)

    def directed_update(update: UpdatePlan) -> UpdatePlan:
        losses = {label: attrs.evolve(loss, start=directed_start(loss.start)) for label, loss in update.losses.items()}
        scheduler, start = directed(update.scheduler), directed_start(update.start)
        return attrs.evolve(update, scheduler=scheduler, start=start, losses=losses)

    best = step.settings.best
    if best is not None and best.mode is None:
        where = step.node.at("best", "metric")
        direction = attempt("`best`", where, partial(better_in(step, metric, where), best.metric))
        mode: Literal["min", "max"] = "max" if direction == "higher" else "min"
        step = attrs.evolve(step, settings=attrs.evolve(step.settings, best=attrs.evolve(best, mode=mode)))
    return step, [directed_update(update) for update in updates], directed(until)


def better_in(step: StepEntry, metric: MetricComponent, where: Location) -> Better:
    """For each name of a metric of a step: whether lower or higher is better; what training logs is a loss."""

    def better(name: str) -> Direction:
        evaluation, _, rest = name.partition("/")
        measured = step.evaluate.get(evaluation)
        if measured is None:
            return "lower"
        components = {label: metric(entry.type) for label, entry in measured.metrics.items()}
        present = {label: each.factory for label, each in components.items() if each is not None}
        declared = {label: MetricExtras.of(each).better for label, each in present.items()}
        label, _, own = rest.partition("/")
        if rest in declared or (own and label in declared):
            return _direction(declared.get(rest, declared[label]), own or rest)
        named = {each[rest] for each in declared.values() if isinstance(each, Mapping) and rest in each}
        dicts = {label for label, each in present.items() if not returns_tensor(each)}
        found = named or {each for label, each in declared.items() if label in dicts and not isinstance(each, Mapping)}
        if len(found) > 1:
            hint = ("hint", "set `mode`: min or below where lower is better, max or above where higher is")
            message = f"it is unknown whether a lower or a higher `{name}` is better"
            raise FluxflowError(message, where, (hint,), code="ambiguous", subject=name)
        return found.pop() if found else "lower"

    return better


def _direction(declared: Declared, name: str) -> Direction:
    return declared.get(name, "lower") if isinstance(declared, Mapping) else declared
