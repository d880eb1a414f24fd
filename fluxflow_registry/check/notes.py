"""What values note about a recipe in which nothing is wrong: an option that has no effect, or not the one expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fluxflow_registry.contracts import ComputedValue, ObserverExtras, ValueExtras
from fluxflow_registry.errors import RecipeError, one_line
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan


def value_notes(plan: RecipePlan) -> list[str]:
    """The notes of all values that steps compute, that observers draw, or that can be generated from a final step.

    Each once, with the place of the value.
    """
    notes: dict[str, None] = {}
    for step in plan.steps:
        names = {name for name, value in step.values.items() if value.source == "value"} | _drawn(plan, step)
        if plan.sampler is not None and all(each.parent != step.name for each in plan.steps):
            names |= {name for name, provider in step.providers.items() if "sampler" in provider.needs}
        for name in sorted(names & set(step.providers)):
            notes |= dict.fromkeys(notes_of(plan, step, name))
    return list(notes)


def notes_of(plan: RecipePlan, step: StepPlan, name: str) -> Iterator[str]:
    """What a value notes about the steps up to one, each with the value's place."""
    provider = step.providers[name]
    steps = [_computed(each) for each in _lineage(plan, step)]
    place = f"{provider.where}  " if provider.entry else ""
    try:
        notes = list(ValueExtras.of(provider.instance).notes(steps))
    except Exception as error:
        message = f"`notes` of value `{name}` failed: {one_line(error)}"
        defined = ("defined in", provider.definition)
        raise RecipeError(message, provider.where, [defined], code="component-failed", subject=name) from error
    for note in notes:
        yield f"{place}value `{name}`: {note}"


def _drawn(plan: RecipePlan, step: StepPlan) -> set[str]:
    """The values that observers draw after a step."""
    draws = [draw for each in plan.observers.values() for draw in ObserverExtras.of(each.instance).draws()]
    return {
        name for draw in draws if not draw.steps or step.name in draw.steps for name in (*draw.values, *draw.optional)
    }


def _lineage(plan: RecipePlan, step: StepPlan) -> list[StepPlan]:
    """The steps whose weights a step starts from, the first one first, and itself."""
    return [*(_lineage(plan, plan.step(step.parent)) if step.parent else ()), step]


def _computed(step: StepPlan) -> Mapping[str, ComputedValue]:
    def computed(component: ConfiguredComponent, needs: Mapping[str, str]) -> ComputedValue:
        return ComputedValue(component.instance, needs)

    values = step.values.items()
    return {name: computed(value.provider, value.needs) for name, value in values if value.source == "value"}
