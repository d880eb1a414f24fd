"""Updates and their losses: a loss's weight and warm-up, its start, the models that its gradient reaches or misses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from attrs import Factory, evolve, frozen

from fluxflow_registry.errors import Location, Problem
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.values import Request, ValuePlan, World, resolve_values
from fluxflow_registry.recipe.schema import OWN, UpdateEntry

Values = Mapping[str, ValuePlan]


@frozen
class AtBatch:
    """It starts before a batch of the step, counted from 0."""

    batch: int = 0

    @property
    def description(self) -> str:
        """What is waited for, in words; empty where it starts with the step."""
        return f"starts at batch {self.batch}" if self.batch else ""


@frozen(eq=False)
class WhenMet:
    """It starts with the first epoch after the condition of a transition is met, which is checked after each epoch."""

    condition: ConfiguredComponent

    @property
    def description(self) -> str:
        """What is waited for, in words."""
        watched = ", ".join(self.condition.watched_metrics())
        return f"starts once {self.condition.name}" + (f" of {watched}" if watched else "") + " is met"


Start = AtBatch | WhenMet

#: It starts with the step.
FROM_THE_BEGINNING = AtBatch()


@frozen(eq=False)
class LossPlan:
    """A planned loss: how it is weighted, when it is computed, and which models it trains.

    `reaches`: the models of its update to which its gradient flows. `closure`: every value that it needs, directly
    or not. Both are empty until the update is planned.
    """

    component: ConfiguredComponent
    weight: float = 1.0
    warmup: int = 0
    #: Computed on every n-th batch of the step.
    every: int = 1
    start: Start = FROM_THE_BEGINNING
    #: Values through which its gradient does not flow.
    detached: frozenset[str] = frozenset()
    reaches: frozenset[str] = frozenset()
    closure: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The name of the loss in its update."""
        return self.component.label

    @property
    def needs(self) -> Mapping[str, str]:
        """For each parameter, the name of the value that fills it."""
        return self.component.needs

    def weight_at(self, batch: int) -> float:
        """The weight W after `batch` batches: W (1 - cos(pi batch / warmup)) / 2 over the first `warmup`, then W."""
        if batch >= self.warmup:
            return self.weight
        return self.weight * (1 - math.cos(math.pi * batch / self.warmup)) / 2


# More than a dozen members: half of what a plan contains is in the recipe's entry, and read through it.
@frozen(eq=False)
class UpdatePlan:
    """A planned update.

    `order`: the values it uses, each after its needs. `carries`: for each of them the trained models (of this update
    and of later ones that reuse the same instance) that its graph must lead to; empty means that it is computed
    without gradient. `reused`: what an earlier update of the same batch leaves. `stale`: what no longer holds once
    this update has stepped. They are empty until the update is planned.
    """

    entry: UpdateEntry
    optimizer: ConfiguredComponent
    scheduler: ConfiguredComponent | None
    balancer: ConfiguredComponent | None
    losses: Mapping[str, LossPlan]
    start: Start = FROM_THE_BEGINNING
    order: tuple[str, ...] = ()
    carries: Mapping[str, frozenset[str]] = Factory(dict)
    reused: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name of the update in its step."""
        return self.entry.name

    @property
    def trains(self) -> tuple[str, ...]:
        """The models that its optimizer moves, in the recipe's order."""
        return tuple(self.entry.settings.trains)

    def gradient(self, value: ValuePlan) -> frozenset[str]:
        """The models of this very update to which gradients flow through `value`."""
        return value.models & frozenset(self.trains)

    def requested_by(self, name: str, values: Values) -> list[str]:
        """What requests `name` in this update: its values by name, its losses as `loss <label>`."""
        by_values = [value for value in self.order if name in values[value].needs.values()]
        return by_values + [f"loss {loss.label}" for loss in self.losses.values() if name in loss.needs.values()]

    @property
    def starts(self) -> dict[str, Start]:
        """When each loss starts, by label, and under OWN when the update itself does."""
        return {OWN: self.start, **{label: loss.start for label, loss in self.losses.items()}}

    def title(self, name: str) -> str:
        """What starts, as messages call it: a loss by its label, or the update itself under OWN."""
        return f"update `{self.name}`" if name == OWN else f"loss `{name}` of update `{self.name}`"


def plan_updates(
    world: World, updates: Sequence[UpdatePlan], step: str
) -> tuple[dict[str, ValuePlan], dict[str, UpdatePlan], list[Problem]]:
    """Plan the values and updates of a step, in their order; what cannot be trained comes beside the plans."""
    requests = [
        Request.by(f"{update.title(loss.label)} in step `{step}`", loss.component)
        for update in updates
        for loss in update.losses.values()
    ]
    values, problems = resolve_values(world, requests)
    updates = [evolve(update, losses=_plan_losses(update, values)) for update in updates]
    problems += [problem for update in updates for problem in _problems(update, world, values)]
    closures = [frozenset().union(*(loss.closure for loss in update.losses.values())) for update in updates]
    plans = [_plan_update(index, updates, closures, values) for index in range(len(updates))]
    return values, {plan.name: plan for plan in plans}, problems


def _plan_losses(update: UpdatePlan, values: Values) -> dict[str, LossPlan]:
    """The losses whose values can all be computed, with what they reach."""
    planned = {}
    for label, loss in update.losses.items():
        needs = loss.needs.values()
        if all(name in values for name in needs):
            closure = frozenset(needs).union(*(values[name].upstream for name in needs))
            detached = frozenset(name for name in loss.detached & closure if values[name].source == "value")
            reaches = frozenset(update.trains) & reach(values, needs, detached)
            planned[label] = evolve(loss, detached=detached, reaches=reaches, closure=closure)
    return planned


def reach(values: Values, names: Iterable[str], detached: frozenset[str]) -> frozenset[str]:
    """The models to which gradients can flow from `names` without passing through a detached value."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or name in detached:
            continue
        seen.add(name)
        if values[name].source == "model":
            found.add(name)
        waiting.extend(values[name].needs.values())
    return frozenset(found)


def _problems(update: UpdatePlan, world: World, values: Values) -> list[Problem]:
    """What cannot be trained as the recipe requires."""
    problems = []
    complete = not update.entry.partial and len(update.losses) == len(update.entry.losses)
    for index, model in enumerate(update.trains):
        where = update.entry.node.at("trains", index)
        if model not in world.models:
            message = f"update `{update.name}` trains `{model}`, but the recipe has no such model"
            problems.append(Problem(message, where, code="unknown-name", subject=model, choices=world.models))
        elif complete and not any(model in loss.reaches for loss in update.losses.values()):
            problems.append(_not_reached(update, model, where))
    trained = [model for model in update.trains if model in world.models]
    for loss in update.losses.values():
        problems.extend(_detaches_nothing(loss, values))
        if trained and not loss.reaches and not update.entry.partial:
            problems.append(_trains_nothing(update, loss, values))
    return problems


def _detaches_nothing(loss: LossPlan, values: Values) -> Iterable[Problem]:
    entry = loss.component.entry
    computed = [name for name in loss.closure if values[name].source == "value"]
    for index, name in enumerate(entry.settings.detach if entry else ()):
        if entry is not None and name not in computed:
            why = f"`{name}` is not computed" if name in loss.closure else f"it does not depend on `{name}`"
            message = f"loss `{loss.label}` cannot detach `{name}`: {why}"
            where = entry.node.at("detach", index)
            yield Problem(message, where, code="unused", subject=name, choices=computed)


def _not_reached(update: UpdatePlan, model: str, where: Location) -> Problem:
    message = f"update `{update.name}` trains `{model}`, but none of its losses reaches it"
    notes = tuple(
        ("cause", f"loss `{loss.label}` reaches {model_names(loss.reaches)}{_detached(loss)}")
        for loss in update.losses.values()
    )
    return Problem(message, where, notes, code="not-reached", subject=model)


def _trains_nothing(update: UpdatePlan, loss: LossPlan, values: Values) -> Problem:
    through = reach(values, loss.needs.values(), frozenset())
    cause = f"it depends on {model_names(through)}{_detached(loss)}, and the update trains {model_names(update.trains)}"
    return Problem(
        f"loss `{loss.label}` reaches no model that update `{update.name}` trains",
        loss.component.where,
        (("cause", cause), ("defined in", loss.component.definition)),
        code="not-reached",
        subject=loss.label,
    )


def model_names(names: Iterable[str]) -> str:
    """Models by name, for messages."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "no model"


def _detached(loss: LossPlan) -> str:
    return f", detached at {model_names(loss.detached)}" if loss.detached else ""


def _plan_update(
    index: int, updates: Sequence[UpdatePlan], closures: Sequence[frozenset[str]], values: Values
) -> UpdatePlan:
    trains = frozenset(updates[index].trains)
    order = [name for name in values if name in closures[index]]
    computed = [name for name in order if values[name].source == "value"]

    def carried(name: str) -> frozenset[str]:
        users = [later for later in _lifetime(index, name, updates, values) if name in closures[later]]
        return frozenset().union(*(values[name].models & frozenset(updates[later].trains) for later in users))

    def left_by_an_earlier_update(name: str) -> bool:
        earlier = [i for i in range(index) if name in closures[i]]
        return any(index in _lifetime(i, name, updates, values) for i in earlier)

    return evolve(
        updates[index],
        order=tuple(computed),
        carries={name: carried(name) for name in order},
        reused=frozenset(filter(left_by_an_earlier_update, computed)),
        stale=frozenset(name for name, value in values.items() if value.source == "value" and value.models & trains),
    )


def _lifetime(index: int, name: str, updates: Sequence[UpdatePlan], values: Values) -> range:
    """The updates in which an instance of `name`, computed in update `index`, holds."""
    for later in range(index, len(updates)):
        if values[name].models & frozenset(updates[later].trains):
            return range(index, later + 1)
    return range(index, len(updates))
