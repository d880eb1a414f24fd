"""The plan of a step: for each update its values in order, where gradients flow, what is reused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from fluxflow_registry.errors import Location, Problem, choices
from fluxflow_registry.plan.values import Ask, Value, World, resolve


@frozen
class LossAsk:
    """A loss as the plan sees it: what it needs, and where its gradient is cut."""

    label: str
    ask: Ask
    detach: tuple[str, ...] = ()
    #: Places of the `detach` names in the recipe.
    detach_where: tuple[Location, ...] = ()


@frozen
class UpdateAsk:
    """An update as the plan sees it."""

    name: str
    trains: tuple[str, ...]
    losses: tuple[LossAsk, ...]
    trains_where: tuple[Location, ...] = ()
    where: Location | None = None
    #: Part of it could not be read: say nothing about what is missing.
    partial: bool = False


@frozen
class LossPlan:
    """A planned loss: `reaches` are the trained models that it moves."""

    label: str
    needs: Mapping[str, str]
    detach: frozenset[str]
    reaches: frozenset[str]
    #: Every value that it needs, directly or not.
    closure: frozenset[str]


@frozen
class UpdatePlan:
    """A planned update.

    `order`: the values it uses, each after its needs. `carries`: for each of them the trained
    models (of this update and of later ones that reuse the same instance) that its graph must lead
    to; empty means that it is computed without gradient. `reused`: what an earlier update of the
    same batch has left. `stale`: what no longer holds once this update has stepped.
    """

    name: str
    trains: frozenset[str]
    losses: tuple[LossPlan, ...]
    order: tuple[str, ...]
    carries: Mapping[str, frozenset[str]]
    reused: frozenset[str]
    stale: frozenset[str]

    def gradient(self, value: Value) -> frozenset[str]:
        """The models of this very update to which gradients flow through `value`."""
        return self.trains & value.models

    def askers(self, name: str, values: Mapping[str, Value]) -> list[str]:
        """Who wants `name` in this update: its values by name, its losses as `loss <label>`."""
        wanting = [value for value in self.order if name in values[value].needs.values()]
        return wanting + [f"loss {loss.label}" for loss in self.losses if name in loss.needs.values()]


@frozen
class StepPlan:
    """A planned step; `splits` are the values at which some loss cuts the graph."""

    values: Mapping[str, Value]
    updates: tuple[UpdatePlan, ...]
    splits: frozenset[str]

    @property
    def trains(self) -> frozenset[str]:
        """Every model that some update trains."""
        return frozenset().union(*(update.trains for update in self.updates))

    @property
    def models(self) -> frozenset[str]:
        """Every model that some value or loss uses."""
        return frozenset(name for name, value in self.values.items() if value.source == "model")


def plan_step(world: World, updates: Sequence[UpdateAsk]) -> tuple[StepPlan, list[Problem]]:
    """Plan all updates of a step; what is refused comes beside the plan of what is left."""
    asks = [loss.ask for update in updates for loss in update.losses]
    values, problems = resolve(world, asks)
    good = [_loss_plans(update, values) for update in updates]
    for update, losses in zip(updates, good, strict=True):
        problems.extend(_refusals(update, losses, world, values))
    # Values that fail in a loss leave the loss out; the rest of the plan stands for --explain.
    closures = [_closure(values, losses) for losses in good]
    plans = tuple(_update_plan(index, updates, good, closures, values) for index in range(len(updates)))
    splits = frozenset(name for losses in good for loss in losses for name in loss.detach)
    return StepPlan(values, plans, splits), problems


def _loss_plans(update: UpdateAsk, values: Mapping[str, Value]) -> tuple[LossPlan, ...]:
    plans = []
    for loss in update.losses:
        needs = loss.ask.provider.needs
        if all(name in values for name in needs.values()):
            closure = frozenset(needs.values()).union(*(values[name].upstream for name in needs.values()))
            cuts = frozenset(name for name in loss.detach if name in values and values[name].source == "value")
            reaches = frozenset(update.trains) & reach(values, needs.values(), cuts)
            plans.append(LossPlan(loss.label, needs, cuts & closure, reaches, closure))
    return tuple(plans)


def reach(values: Mapping[str, Value], names: Iterable[str], cuts: frozenset[str]) -> frozenset[str]:
    """The models to which gradients can flow from `names` without passing through a cut."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or name in cuts:
            continue
        seen.add(name)
        if values[name].source == "model":
            found.add(name)
        waiting.extend(values[name].needs.values())
    return frozenset(found)


def _refusals(
    update: UpdateAsk, losses: tuple[LossPlan, ...], world: World, values: Mapping[str, Value]
) -> list[Problem]:
    """What cannot be trained as the recipe says."""
    problems = []
    places = dict(zip(update.trains, update.trains_where, strict=True)) if update.trains_where else {}
    by_label = {loss.label: loss for loss in losses}
    complete = not update.partial and len(losses) == len(update.losses)
    for model in update.trains:
        where = places.get(model, update.where)
        if model not in world.models:
            message = f"update `{update.name}` trains `{model}`, which is no model of the recipe"
            problems.append(Problem(message, where, choices(model, world.models, "models")))
        elif not complete or any(model in loss.reaches for loss in losses):
            continue
        else:
            problems.append(_unreached(update, model, losses, where))
    for asked in update.losses:
        loss = by_label.get(asked.label)
        if loss is None:
            continue
        for name, where in zip(asked.detach, asked.detach_where or (asked.ask.where,) * len(asked.detach), strict=True):
            computed = [each for each in loss.closure if values[each].source == "value"]
            if name not in computed:
                given = name in loss.closure
                why = f"`{name}` is given, not computed" if given else f"it does not depend on `{name}`"
                message = f"loss `{asked.label}` has nothing to detach at `{name}`: {why}"
                problems.append(Problem(message, where, choices(name, computed, "depends on")))
        known = [model for model in update.trains if model in world.models]
        if known and not loss.reaches and not update.partial:
            problems.append(_idle(update, asked, loss, values))
    return problems


def _unreached(update: UpdateAsk, model: str, losses: tuple[LossPlan, ...], where: Location | None) -> Problem:
    message = f"update `{update.name}` trains `{model}`, but none of its losses reaches it"
    notes = tuple((loss.label, f"reaches {_names(loss.reaches)}{_cut(loss)}") for loss in losses)
    return Problem(message, where, notes)


def _idle(update: UpdateAsk, asked: LossAsk, loss: LossPlan, values: Mapping[str, Value]) -> Problem:
    message = f"loss `{asked.label}` moves nothing that update `{update.name}` trains"
    through = reach(values, loss.needs.values(), frozenset())
    notes = (
        ("depends on", _names(through) + _cut(loss)),
        ("trained", _names(update.trains)),
        ("asked in", f"{asked.ask.provider.signature.where}  {asked.ask.provider.signature.text}"),
    )
    return Problem(message, asked.ask.where, notes)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "no model"


def _cut(loss: LossPlan) -> str:
    return f", cut at {_names(loss.detach)}" if loss.detach else ""


def _closure(values: Mapping[str, Value], losses: Iterable[LossPlan]) -> frozenset[str]:
    return frozenset().union(*(loss.closure for loss in losses)) if losses else frozenset()


def _update_plan(
    index: int,
    updates: Sequence[UpdateAsk],
    losses: Sequence[tuple[LossPlan, ...]],
    closures: Sequence[frozenset[str]],
    values: Mapping[str, Value],
) -> UpdatePlan:
    trains = frozenset(updates[index].trains)
    order = tuple(name for name in values if name in closures[index])
    fixed = {name for name in values if values[name].source != "value"}
    return UpdatePlan(
        name=updates[index].name,
        trains=trains,
        losses=losses[index],
        order=tuple(name for name in order if name not in fixed),
        carries={
            name: frozenset().union(
                *(
                    values[name].models & frozenset(updates[later].trains)
                    for later in _lifetime(index, name, updates, values)
                    if name in closures[later]
                )
            )
            for name in order
        },
        reused=frozenset(
            name
            for name in order
            if name not in fixed
            and any(
                name in closures[earlier] and index in _lifetime(earlier, name, updates, values)
                for earlier in range(index)
            )
        ),
        stale=frozenset(name for name in values if name not in fixed and values[name].models & trains),
    )


def _lifetime(index: int, name: str, updates: Sequence[UpdateAsk], values: Mapping[str, Value]) -> range:
    """The updates in which an instance of `name`, computed in update `index`, holds."""
    for later in range(index, len(updates)):
        if values[name].models & frozenset(updates[later].trains):
            return range(index, later + 1)
    return range(index, len(updates))
